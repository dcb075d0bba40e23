"""Small engines with a state worth saving, and trainers on one or several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.config.arguments import config
from tests.zero.training import Case, make_engine, train
from zerokit.comm import Communicator
from zerokit.train.assemble import assemble
from zerokit.train.resume import open_state
from zerokit.train.saving import Saver
from zerokit.train.trainer import Trainer
from zerokit.zero.engine import Engine

PRECISIONS = {
    "fp32": {},
    "bf16": {"compute": torch.bfloat16, "master": "split"},
    "separate": {"compute": torch.bfloat16, "master": "separate"},
}
SMALL = (
    "model.dim=16", "model.layers=2", "model.heads=2", "model.dropout=0.2", "data=synthetic", "data.samples=40",
    "data.held_out=8", "data.seq_len=8", "data.vocab_size=32", "batch.global=8", "launch.device=cpu", "train.steps=8",
    "train.log_every=3", "train.sample_tokens=0", "tracker=none", "optimizer.lr=0.01",
)  # fmt: skip
"""A language model with dropout; an epoch is five steps."""


def trained(stage: int, steps: int = 2, precision: str = "bf16", **case: Any) -> Engine:
    """An engine after a few steps."""
    engine = fresh(stage, precision, **case)
    train(engine, Case(steps=steps, **case))
    return engine


def fresh(stage: int, precision: str = "bf16", **case: Any) -> Engine:
    """An engine that has not trained."""
    return make_engine(Case(**PRECISIONS[precision], **case), stage)


def values(engine: Engine) -> dict[str, str]:
    """Everything a rank would save, by name and place, as texts that tell every value apart."""
    engine.state.refresh()
    pieces = engine.state.pieces()
    return {f"{p.name}[{p.start}]": str([chunk.tolist() for _, chunk in p.chunks()]) for p in pieces if len(p)}


def open_trainer(folder: Path | str, *words: str, disk: Any = None) -> tuple[Trainer, Saver]:
    """A trainer as a run in `folder` has it, resumed if there is something to resume from."""
    cfg = config(*SMALL, *words)
    trainer = assemble(cfg, Communicator(torch.device("cpu"), 60))
    saver, _ = open_state(trainer, cfg, cfg.to_dict(), Path(folder), disk)
    return trainer, saver


def fit(trainer: Trainer, saver: Saver, until: int | None = None) -> list[dict[str, float]]:
    """Train to the end or to step `until`; the lines of metrics that do not depend on the clock."""
    lines = []
    for step, metrics in trainer.fit():
        if metrics is not None:
            lines.append(
                {
                    "step": step,
                    **{k: v for k, v in metrics.items() if k.split("/")[0] in ("train", "eval", "optim", "precision")},
                }
            )
        saver.on_step(step)
        if step == until:
            break
    return lines


def everything(trainer: Trainer) -> dict[str, Any]:
    """What must be equal after a resume: all tensors of this rank and the trainer's counters, without the clock's."""
    counters = {k: v for k, v in trainer.state().items() if "second" not in k and "per_sec" not in k}
    return {**values(trainer.engine), "counters": counters, "losses": trainer.tensors()["losses"].tolist()}
