#!/usr/bin/env bash
# An encoder such as BERT learns to tell classes of texts apart. What it leaves in outputs/classify/model, classes by
# name, is loaded by transformers: pipeline("text-classification", model="outputs/classify/model").
# classify.sh MODEL [ROWS]; MODEL is a folder with weights and tokenizer, ROWS have a "text" and a "label".
set -eu
MODEL=$1
ROWS=${2:-"$(dirname "$0")/data/reviews.jsonl"}

python -m zerokit model=hf "model.path=$MODEL" model.task=classification data=jsonl "data.files=[$ROWS]" \
  data.label=label data.seq_len=64 data.held_out_percent=20 train.steps=60 batch.global=8 optimizer.lr=1e-4 \
  state.best=eval/accuracy state.best_mode=max hydra.run.dir=outputs/classify
python -m zerokit evaluate outputs/classify
