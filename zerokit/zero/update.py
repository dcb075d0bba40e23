"""The optimizer's formula over flat shards: one pass that clips, updates, and writes master and compute weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from zerokit.comm import Communicator
from zerokit.zero.storage import Storage, update_regions
from zerokit.zero.unit import Unit

CHUNK = 32_768
"""Elements updated at a time on the CPU: the handful of fp32 operands stays in the L2 cache between operations."""


@dataclass(frozen=True)
class Group:
    """Hyperparameters that a set of parameters shares."""

    weight_decay: float = 0.0


class Elementwise(Protocol):
    """An optimizer whose new value of an element depends on that element alone."""

    lr: float
    state_names: Sequence[str]

    def scalars(self, lr: Tensor, step: Tensor, weight_decay: float) -> dict[str, Tensor]:
        """What is the same for all elements, from 0-dim float64 tensors: the learning rate and the step (from 1)."""

    def update(self, p: Tensor, g: Tensor, state: tuple[Tensor, ...], s: dict[str, Tensor]) -> tuple[Tensor, tuple]:
        """New fp32 values (n,) and states of elements with values `p` and gradients `g`; changes nothing in place."""


@dataclass(frozen=True)
class _Part:
    weight: Tensor
    extra: Tensor | None
    gradient: Tensor
    state: tuple[Tensor, ...]
    group: int


class Update:
    """Applies an elementwise optimizer to everything this rank owns.

    [Note: skipped steps] Whether a step is taken is known on the device only. On a GPU the one compiled kernel selects
    between old and new values; on a CPU, where reading a number costs nothing, the formula is not even called.
    """

    def __init__(self, storage: Storage, optimizer: Elementwise, groups: Sequence[Group], master: Any, compiled: bool):
        self.optimizer, self.groups, self.master, self.compiled = optimizer, list(groups), master, compiled
        step = CHUNK if storage.device.type == "cpu" else None
        self._parts = {
            unit: [part for region in regions for part in self._cut(storage, region, step)]
            for unit, regions in update_regions(storage).items()
        }
        self._kernel: Callable = torch.compile(self._element, dynamic=True) if compiled else self._element
        self._scalars: Callable = torch.compile(self._all_scalars, dynamic=False) if compiled else self._all_scalars

    @staticmethod
    def _cut(storage: Storage, region: Any, step: int | None) -> list[_Part]:
        step = step or region.length

        def slice_of(arena: Tensor, start: int, begin: int) -> Tensor:
            return arena[start + begin : start + min(begin + step, region.length)]

        return [
            _Part(
                slice_of(storage.weights, region.weight, begin),
                None if storage.extra is None else slice_of(storage.extra, region.state, begin),
                slice_of(storage.gradients, region.gradient, begin),
                tuple(slice_of(arena, region.state, begin) for arena in storage.states.values()),
                region.group,
            )
            for begin in range(0, region.length, step)
        ]

    def __call__(
        self, units: Sequence[Unit], comm: Communicator, lr: Tensor, step: Tensor, scale: Tensor, ok: Tensor
    ) -> None:
        """Update `units` in place, one after the other on the stream for updates, marking each with an event.

        lr, step, scale: 0-dim float64, scale multiplies the gradients; ok: 0-dim bool, take the step.
        """
        if not ok.is_cuda and not ok:
            return
        scalars, scale = self._scalars(lr, step), scale.float()
        known = comm.compute.record()
        with comm.updates as stream:
            stream.wait(known)
            for unit in units:
                for part in self._parts[unit]:
                    self._kernel(part.weight, part.extra, part.gradient, part.state, scalars[part.group], scale, ok)
                unit.updated = stream.record()
        # Memory of the compute stream must not be used again before the update has read it.
        self._held = (scalars, scale, ok)

    def _all_scalars(self, lr: Tensor, step: Tensor) -> list[dict[str, Tensor]]:
        return [
            {k: v.float() for k, v in self.optimizer.scalars(lr, step, g.weight_decay).items()} for g in self.groups
        ]

    def _element(self, weight: Tensor, extra: Tensor | None, gradient: Tensor, state: tuple[Tensor, ...],
                 scalars: dict[str, Tensor], scale: Tensor, ok: Tensor) -> None:  # fmt: skip
        old = self.master.load(weight, extra)
        new, new_state = self.optimizer.update(old, gradient.float() * scale, state, scalars)
        if ok.is_cuda:
            new = torch.where(ok, new, old)
            new_state = tuple(torch.where(ok, n, o) for n, o in zip(new_state, state, strict=True))
        self.master.store(weight, extra, new)
        for old_values, new_values in zip(state, new_state, strict=True):
            old_values.copy_(new_values)
