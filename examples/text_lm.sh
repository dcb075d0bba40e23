#!/usr/bin/env bash
# A small GPT learns to write from text files, is measured on what was held out, and writes.
# text_lm.sh [FILES]; by default on the text of this project.
set -eu
FILES=${1:-"$(dirname "$0")/../docs"}
RUN=outputs/text_lm

python -m zerokit data=text "data.files=[$FILES]" data.seq_len=128 train.steps=400 hydra.run.dir="$RUN"
python -m zerokit evaluate "$RUN" train.eval_samples=200
python -m zerokit generate "$RUN" --prompt "The " --tokens 100
