"""A script on transformers' Trainer, with a DeepSpeed JSON and without; `trainer.py FOLDER` prints losses as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
import transformers
from accelerate.state import AcceleratorState, GradientState
from torch.utils.data import Dataset

AUTO = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping", "train_batch_size")


class Rows(Dataset):
    """Random tokens."""

    def __init__(self, count: int):
        self.rows = torch.randint(3, 64, (count, 12), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def train(folder: str, deepspeed: dict[str, Any] | None, resume: bool = False) -> list[float]:
    """Losses of six steps and of the evaluation at their end; with `resume` the last three go on from a checkpoint."""
    args = transformers.TrainingArguments(
        output_dir=folder, use_cpu=True, deepspeed=deepspeed, max_steps=6, save_steps=3, logging_steps=1,
        per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-3, max_grad_norm=1.0,
        report_to=[], disable_tqdm=True, eval_strategy="steps", eval_steps=6)  # fmt: skip
    transformers.set_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=64, **shape))
    trainer = transformers.Trainer(model, args, train_dataset=Rows(48), eval_dataset=Rows(8))
    trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-3" if resume else None)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    return [line[key] for line in trainer.state.log_history for key in ("loss", "eval_loss") if key in line]


if __name__ == "__main__":
    made = {"plain": train(f"{sys.argv[1]}/plain", None)}
    for stage in (2, 3):
        json_of_stage = dict.fromkeys(AUTO, "auto") | {"zero_optimization": {"stage": stage}}
        for resume in (False, True):
            name = f"stage {stage}{' resumed' if resume else ''}"
            made[name] = train(f"{sys.argv[1]}/{stage}", json_of_stage, resume)
    if dist.get_rank() == 0:
        print(json.dumps(made))
