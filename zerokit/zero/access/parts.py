"""What an engine is made of, as those see it who read and write its state: they stand below the engine."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zerokit.comm import Communicator
from zerokit.zero.gather import Gatherer
from zerokit.zero.micro_batches import MicroBatches
from zerokit.zero.numerics import Numerics
from zerokit.zero.placement import Home, Stage
from zerokit.zero.reduce import Reducer
from zerokit.zero.storage import Storage
from zerokit.zero.unit import Unit
from zerokit.zero.update.grad_norm import GradientNorm
from zerokit.zero.update.unused import Unused


class EngineParts(Protocol):
    """The engine, beneath its public calls."""

    module: nn.Module
    comm: Communicator
    device: torch.device
    numerics: Numerics
    stage: Stage
    declared: Stage
    seed: int | None
    units: list[Unit]
    storage: Storage
    gatherer: Gatherer
    gradient_norm: GradientNorm
    reducer: Reducer
    micro_batch: MicroBatches
    unused: Unused | None
    kept: dict[str, nn.Parameter]
    save_frozen: bool
    parked: Any
    reader: Any
    state: Any
    steps_taken: Tensor
    steps_skipped: Tensor
    grad_norm: Tensor

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step."""

    @property
    def micro_batches(self) -> int:
        """Those of the step under way that have been through backward."""

    @property
    def gradients_reduced(self) -> bool:
        """Whether its gradients are sums over the ranks."""

    @property
    def gradient_home(self) -> Home:
        """Where they lie."""

    def build(self, seed: int | None, known: Collection[Tensor] = ()) -> None:
        """Divide the model."""

    def take_off(self, values: Callable[[Unit], list[Tensor]]) -> None:
        """Leave it."""

    def states_changed(self) -> None:
        """States were written from outside."""

    def forget_events(self) -> None:
        """Everything issued is done."""
