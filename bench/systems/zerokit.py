"""zerokit, through its public `initialize`. Options are config keys: `zerokit-3:reduce_dtype=bf16,prefetch=2`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

import zerokit
from bench.model import build
from bench.systems._base import BETAS, CLIP_NORM, EPS, WEIGHT_DECAY, Setup, System
from zerokit.config import registry
from zerokit.config.schema import SECTIONS
from zerokit.zero.graph import WARMUP, CapturedStep


class Zerokit(System):
    """The engine at the stage in the system's name.

    An option `section.key=value` sets that key; a bare key is looked for in zero, precision, train, optimizer, launch
    and checkpointing; `checkpointing=NAME` chooses the activation checkpointing.
    """

    allowed = None

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        config = config_of(setup)
        self.engine = zerokit.initialize(build(setup.case), config)
        self._captured = CapturedStep(self.engine, self._whole) if config["train"].get("cuda_graph") else None
        self.recorded_at = WARMUP if self._captured else None

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        if self._captured is None:
            return super().step(inputs, targets)
        return self._captured(list(zip(inputs, targets, strict=True))).clone()

    def _whole(self, batches: Sequence[tuple[Tensor, ...]]) -> Tensor:
        return super().step(*map(torch.stack, zip(*batches, strict=True)))

    def micro_step(self, index: int, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = self.engine(inputs, targets=targets)
        self.engine.backward(loss)
        return loss.detach()

    def unseen_bytes(self) -> int:
        return self.engine.comm.shared_bytes

    def update(self) -> None:
        self.engine.step()


def config_of(setup: Setup) -> dict[str, Any]:
    """The config that the benchmark's settings and the system's options stand for."""
    adamw = {"lr": setup.lr, "beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS, "weight_decay": WEIGHT_DECAY}
    config: dict[str, Any] = {
        "zero": {"stage": setup.stage},
        "precision": {"name": setup.precision},
        "optimizer": {"name": "adamw", **adamw},
        "train": {"clip_norm": CLIP_NORM, "compile": setup.compiled, "seed": setup.seed},
        "batch": {"accumulation": setup.case.accumulation},
        "launch": {"device": setup.device.type},
    }
    options = dict(setup.options)
    config["checkpointing"] = {"name": options.pop("checkpointing", "none")}
    for key, text in options.items():
        section, name = _place(key, config)
        config[section][name] = _value(text)
    return config


def _place(key: str, config: dict[str, Any]) -> tuple[str, str]:
    section, dot, name = key.partition(".")
    if dot:
        if section not in config:
            raise ValueError(f"option '{key}': expected a section among {', '.join(config)}; got '{section}'.")
        return section, name
    for section in ("zero", "precision", "train", "optimizer", "launch", "checkpointing"):
        options = SECTIONS.get(section) or registry.options_type(section, config[section]["name"])
        if key in {f.name for f in fields(options)}:
            return section, key
    raise ValueError(f"option '{key}': zerokit's config has no such key; `python -m zerokit help` lists them.")


def _value(text: str) -> Any:
    """A bool, None, a number, or the text itself; `a+b` is a list, since commas part the options."""
    if "+" in text and not text.startswith("+") and not text[0].isdigit():
        return text.split("+")
    if text in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
