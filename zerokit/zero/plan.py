"""How a model is to be divided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from zerokit.zero.numerics import ParameterGroups


@dataclass(frozen=True)
class Plan:
    """How a model is divided; see `Engine`. groups: of parameters, or what makes them for a model.
    keep: bytes on the device of what has its home on the host."""

    groups: ParameterGroups | Callable[[nn.Module], ParameterGroups]
    units: Sequence[str]
    min_unit: int
    prefetch: int
    peers: bool
    guard: bool
    skip_unused: bool
    compile_update: bool
    transient_gradients: bool
    keep: int
