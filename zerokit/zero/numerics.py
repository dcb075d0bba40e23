"""What an engine is told about number formats and hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from zerokit.zero.storage import Dtypes
from zerokit.zero.update.kernel import Group


class Scaler(Protocol):
    """The factor that the loss is multiplied with before backward."""

    scale: Tensor  # 0-dim float32, on the device

    def update(self, ok: Tensor) -> None:
        """Take note of a step taken (`ok`, 0-dim bool) or skipped, without a host synchronisation."""

    def exhausted(self) -> Tensor:
        """Whether the scale cannot shrink any further (0-dim bool)."""


@dataclass(frozen=True)
class Numerics:
    """Formats of one training.

    compute: of weights and activations. master: a name of `zerokit.zero.update.master.MASTERS`.
    accumulate: of gradients between micro-batches. reduce: of gradients on the wire. scaler: None does not scale.
    weight: what the mean of gradients is multiplied with (their sum over the ranks: the number of ranks). skips:
    whether steps whose gradients are not finite are left out; else they are taken, with what that makes of the weights.
    """

    compute: torch.dtype = torch.float32
    master: str = "same"
    accumulate: torch.dtype = torch.float32
    reduce: torch.dtype = torch.float32
    scaler: Scaler | None = None
    weight: float = 1.0
    skips: bool = True

    def dtypes(self, extra: torch.dtype | None, world: int, accumulation: int) -> Dtypes:
        """Of what is stored; `extra` completes weights to masters. Gradients that are not accumulated stay as they
        travel."""
        wire = self.reduce if world > 1 else self.accumulate
        stored = self.accumulate if accumulation > 1 else wire
        return Dtypes(weight=self.compute, extra=extra, gradient=stored, wire=wire)


@dataclass(frozen=True)
class ParameterGroups:
    """Hyperparameters per group; `of` gives the index of a parameter's group from its name and the parameter."""

    groups: Sequence[Group] = (Group(),)
    of: Any = field(default=lambda name, parameter: 0)
