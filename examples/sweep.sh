#!/usr/bin/env bash
# Every stage with two learning rates: one run each, a table of all in outputs/sweep/report.html. The same command
# again goes on with what is missing.
set -eu

python -m zerokit -m zero=stage0,stage1,stage2,stage3 optimizer.lr=1e-3,3e-3 data.seq_len=64 train.steps=40 \
  hydra.sweep.dir=outputs/sweep
