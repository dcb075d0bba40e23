"""The same losses as transformers' own Trainer, from the same folder with the same batches."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

import torch
import transformers as hf

from tests.config.arguments import config
from tests.huggingface.folders import MODELS, TASKS, rows, save
from tests.ranks import run_ranks
from zerokit.comm import Communicator
from zerokit.model._hf.build import CLASSES
from zerokit.train.assemble import assemble

STEPS, GLOBAL, LR = 20, 8, 3e-3
KNOWING = ("causal_lm",)
"""Tasks whose losses know of the tokens of other micro-batches; Trainer takes all as if they did, so the others have
one micro-batch there."""


def words(path, task):
    """A run on the rows of tests, on two ranks of four micro-batches."""
    return (
        "model=hf",
        f"model.path={path}",
        f"model.task={task}",
        "data=rows_of_tests",
        f"data.task={TASKS[task]}",
        f"train.steps={STEPS}",
        "train.log_every=1",
        "batch.micro=1",
        "batch.accumulation=4",
        f"batch.global={GLOBAL}",
        "scheduler=constant",
        "scheduler.warmup=0",
        f"optimizer.lr={LR}",
        "optimizer.beta2=0.999",
        "optimizer.weight_decay=0.01",
        "zero.min_unit=0",
        "tracker=none",
    )


def losses(run, variants):
    """Of every step, by zerokit, in each variant."""
    trainers = [assemble(config(*run, *more), Communicator(torch.device("cpu"))) for more in variants]
    return [[metrics["train/loss"] for _, metrics in trainer.fit()] for trainer in trainers]


class Recorded(hf.Trainer):
    """A Trainer that notes the losses of micro-batches, of which those of a step add up to its loss."""

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.noted.append(float(loss))
        return loss


def reference(path, task, accumulation, folder):
    """Of every step, by transformers' Trainer."""
    model, columns = getattr(hf, CLASSES[task]), rows(TASKS[task])
    data = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    arguments = hf.TrainingArguments(
        folder,
        max_steps=STEPS,
        per_device_train_batch_size=GLOBAL // accumulation,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        learning_rate=LR,
        weight_decay=0.01,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        optim="adamw_torch",
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Recorded(model=model.from_pretrained(path, dtype=torch.float32), args=arguments, train_dataset=data)
    trainer.noted = []
    trainer.train()
    return [sum(trainer.noted[step * accumulation : (step + 1) * accumulation]) for step in range(STEPS)]


@pytest.mark.parametrize("name", MODELS)
def test_losses_of_twenty_steps(name, tmp_path):
    task = MODELS[name][0]
    path = save(name, tmp_path)
    wanted = reference(path, task, GLOBAL if task in KNOWING else 1, str(tmp_path / "trainer"))
    assert max(wanted) - min(wanted) > 0.02
    variants = [("zero=stage0",), ("zero=stage3", "checkpointing=full")]
    for got in run_ranks(losses, 2, words(path, task), variants)[0]:
        assert max(abs(a - b) for a, b in zip(got, wanted, strict=True)) < 1e-5
