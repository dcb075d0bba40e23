"""Token data of which some targets are masked, and models that compute their loss in four ways."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.config.arguments import config
from zerokit.comm import Communicator
from zerokit.config.registry import Choice, build, options_type, register
from zerokit.config.schema import BatchConfig, Config
from zerokit.data._synthetic import ProgressionSource
from zerokit.train.assemble import assemble
from zerokit.train.trainer import Trainer

GLOBAL, LENGTH, VOCABULARY, HELD_OUT, LR = 8, 10, 24, 13, 0.1
MODELS = ("chunked", "logits", "nan", "divided")
"""By their loss: zerokit's own; the data's; PyTorch's mean, which is NaN without targets; one whose gradient is too."""

PRECISIONS = {"fp32": {}, "bf16": {}, "fp16": {"initial_scale": 64.0}}  # a scale at which no step is skipped


@cache
def composed() -> Config:
    """The config that all others are made from, as composing takes long."""
    return config(
        "model=gpt_nano", "model.dim=16", "model.layers=2", "model.heads=2", "model.loss_chunk=7",
        "data=synthetic", f"data.seq_len={LENGTH}", f"data.vocab_size={VOCABULARY}", "data.samples=40",
        f"data.held_out={HELD_OUT}", f"batch.global={GLOBAL}", "train.steps=3", "train.log_every=1",
        "train.clip_norm=null", "optimizer=sgd", f"optimizer.lr={LR}", "optimizer.momentum=0",
        "optimizer.weight_decay=0", "scheduler=constant", "zero.min_unit=0", "tracker=none",
    )  # fmt: skip


def variant(model: str = "chunked", stage: int = 2, precision: str = "fp32", batch: BatchConfig | None = None,
            **train: Any) -> Config:  # fmt: skip
    """The config of a training; `train`: options of that section."""
    cfg = composed()
    return replace(
        cfg,
        model=cfg.model if model == "chunked" else Choice(model, Options()),
        zero=replace(cfg.zero, stage=stage),
        precision=Choice(precision, options_type("precision", precision)(**PRECISIONS[precision])),
        batch=batch or cfg.batch,
        train=replace(cfg.train, **train),
    )


def kept(kind: str, index: Tensor) -> Tensor:
    """How many targets of the samples of these indices are valid, by kind."""
    in_step = index % GLOBAL
    if kind == "samples":  # of another length each
        return index * 7 % LENGTH + 1
    if kind == "micro-batches":  # some micro-batches, however small they are, have none
        return torch.where(in_step % 4 < 2, 0, LENGTH - in_step)
    if kind == "rank":  # the second half of a step
        return torch.where(in_step < GLOBAL // 2, LENGTH - 3 * in_step % 5, 0)
    if kind == "all but one":
        return (in_step == 5).long()
    assert kind == "step", kind  # the second step has none
    return torch.where(index // GLOBAL == 1, 0, LENGTH - in_step)


KINDS = ("samples", "micro-batches", "rank", "all but one", "step")


class MaskedSource(ProgressionSource):
    """Synthetic tokens with masked targets, by the index of the sample in the run."""

    kind = "samples"

    def _mask(self, batch: tuple[Tensor, Tensor] | None, start: int) -> tuple[Tensor, Tensor] | None:
        if batch is None:
            return None
        inputs, targets = batch
        valid = kept(self.kind, torch.arange(start, start + len(inputs)))
        return inputs, targets.masked_fill(torch.arange(LENGTH) >= valid[:, None], -100)

    def batch(self, start: int, count: int):
        return self._mask(super().batch(start, count), start)

    def validation(self, start: int, count: int):
        return self._mask(super().validation(start, count), start)


class Own(nn.Sequential):
    """Logits, or with targets the mean loss as PyTorch has it."""

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        logits = super().forward(tokens)
        return logits if targets is None else F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class Divided(Own):
    """The loss divided by the number of targets: without any, its gradient is NaN too."""

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        logits = super().forward(tokens)
        if targets is None:
            return logits
        losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
        return (losses / (targets != -100).sum()).sum()


@dataclass
class Options:
    dim: int = 12


def register_models() -> None:
    """Make the models known in this process, which ends with the test."""
    for name, kind in {"logits": nn.Sequential, "nan": Own, "divided": Divided}.items():

        def make(options, data, kind=kind):
            return kind(nn.Embedding(VOCABULARY, options.dim), nn.Linear(options.dim, VOCABULARY))

        make.__qualname__ = name
        register("model", name, Options)(make)


def masked_trainer(kind: str, cfg: Config, device: str = "cpu") -> Trainer:
    """A trainer on data masked in the way of `kind`."""
    trainer = assemble(cfg, Communicator(torch.device(device, 0) if device == "cuda" else torch.device(device)))
    source = trainer.loader.source
    source.__class__, source.kind = MaskedSource, kind
    return trainer


def plain_twin(trainer: Trainer, cfg: Config) -> nn.Module:
    """The trainer's model with its weights, whole and without an engine."""
    twin = build("model", cfg.model, data=trainer.loader.source.info)
    twin.load_state_dict(trainer.engine.full_state_dict(), strict=False)
    return twin


def plain_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean over all valid targets of a batch, by PyTorch alone."""
    inputs, targets = batch
    total = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="sum")
    return total / (targets != -100).sum().clamp(min=1)


def plain_training(model: nn.Module, source: Any, steps: int = 3) -> list[tuple[float, float]]:
    """Loss, NaN where there are no targets, and gradient norm of steps of SGD on whole batches."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    seen = []
    for step in range(steps):
        inputs, targets = source.batch(step * GLOBAL, GLOBAL)
        loss = plain_loss(model, (inputs, targets))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        optimizer.step()
        counted = (targets != -100).any()
        seen.append((loss.item() if counted else math.nan, norm.item()))
    return seen
