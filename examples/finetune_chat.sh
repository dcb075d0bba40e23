#!/usr/bin/env bash
# A model of transformers learns from conversations: an adapter beside it (LoRA), then all of it; both write.
# finetune_chat.sh MODEL [CHATS]; MODEL is a folder with weights and tokenizer. One whose tokenizer has no chat template
# needs data.template=chatml, llama3 or plain in addition.
set -eu
MODEL=$1
CHATS=${2:-"$(dirname "$0")/data/chats.jsonl"}
WORDS=(model=hf "model.path=$MODEL" data=chat "data.files=[$CHATS]" data.seq_len=128 data.held_out_percent=10
       train.steps=60 batch.global=8)

python -m zerokit "${WORDS[@]}" adapter=lora adapter.r=8 optimizer.lr=1e-3 hydra.run.dir=outputs/chat_lora
python -m zerokit generate outputs/chat_lora --prompt "What does stage 3 divide?" --tokens 40

python -m zerokit "${WORDS[@]}" zero=stage3 precision=bf16 optimizer.lr=1e-4 hydra.run.dir=outputs/chat_full
python -m zerokit generate outputs/chat_full --prompt "What does stage 3 divide?" --tokens 40
