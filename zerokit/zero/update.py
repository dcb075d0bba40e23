"""The optimizer's formula over flat shards: one pass that clips, updates, and writes master and compute weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from zerokit.comm import Communicator
from zerokit.zero.states import State
from zerokit.zero.storage import Region, Storage, update_regions
from zerokit.zero.unit import Unit

CHUNK = 32_768
"""Elements updated at a time on the CPU: the handful of fp32 operands stays in the L2 cache between operations."""


class Now(NamedTuple):
    """What a step's scalars depend on: 0-dim float64 tensors, but for the weight decay; `step` counts from 1.

    momentum: None for rules that have none. kept: the rule's `kept` of its hyperparameter group.
    """

    lr: Tensor
    step: Tensor
    weight_decay: float
    momentum: Tensor | None
    kept: Mapping[str, Tensor]


class Rule(Protocol):
    """How an optimizer changes elements: see `zerokit.optimizer._base.Optimizer`. Without `phases` the new value of an
    element depends on that element alone."""

    lr: float
    momentum: float | None
    states: Sequence[State]
    phases: Sequence[Any]
    kept: Mapping[str, float]
    compiles: bool

    def scalars(self, now: Now) -> dict[str, Tensor]:
        """What is the same for all elements of a group."""

    def keep(self, now: Now) -> dict[str, Tensor]:
        """The next values of `kept`."""

    def update(self, p: Tensor, g: Tensor, state: tuple[Tensor, ...], s: dict[str, Tensor]) -> tuple[Tensor, tuple]:
        """New fp32 values and states of elements with values `p` and gradients `g`; changes nothing in place."""


@dataclass(frozen=True)
class Group:
    """Hyperparameters that a set of parameters shares. rule: None means the engine's optimizer."""

    weight_decay: float = 0.0
    lr_factor: float = 1.0
    rule: Rule | None = None


@dataclass
class Part:
    """Elements that one kernel updates: views of the arenas. known: results of phases, for this part."""

    weight: Tensor
    extra: Tensor | None
    gradient: Tensor
    state: tuple[Tensor, ...]
    group: int
    known: dict[str, Tensor] = field(default_factory=dict)


def make_part(storage: Storage, unit: Unit, region: Region) -> Part:
    """The views of a region of a unit."""

    def cut(arena: Tensor, start: int) -> Tensor:
        return arena[start : start + region.length]

    return Part(
        cut(storage.weights, region.weight),
        None if storage.extra is None else cut(storage.extra, region.extra),
        cut(unit.gradient, region.gradient),
        storage.states.views(unit, region.start, region.start + region.length, region.group),
        region.group,
    )


class Update:
    """Applies the rule of each hyperparameter group to everything this rank owns.

    [Note: skipped steps] Whether a step is taken is known on the device only. On a GPU the one compiled kernel selects
    between old and new values; on a CPU, where reading a number costs nothing, the formula is not even called.
    """

    def __init__(self, storage: Storage, groups: Sequence[Group], master: Any, comm: Communicator, compiled: bool):
        self.groups, self.master, self.compiled = list(groups), master, compiled
        self._kept = storage.states.kept
        self.lr_factors = torch.tensor([g.lr_factor for g in groups], dtype=torch.float64, device=storage.device)
        rules = dict.fromkeys(group.rule for group in self.groups)
        kernels = {rule: self._compile(self._writer(rule), rule) for rule in rules}
        self._kernels = [kernels[group.rule] for group in self.groups]
        self._parts: dict[Unit, list[Part]] = {unit: [] for unit in storage.trainable}
        for unit, regions in update_regions(storage).items():
            for region in regions:
                self._parts[unit].extend(self._cut(storage, unit, region))
        traceable = compiled and all(rule.compiles for rule in rules)
        self._scalars = torch.compile(self._all_scalars, dynamic=False) if traceable else self._all_scalars

    def _compile(self, function: Callable, rule: Rule) -> Callable:
        return torch.compile(function, dynamic=True) if self.compiled and rule.compiles else function

    @staticmethod
    def _cut(storage: Storage, unit: Unit, region: Region) -> Iterator[Part]:
        step = CHUNK if storage.device.type == "cpu" else region.length
        stop = region.start + region.length
        for begin in range(region.start, stop, step):
            yield make_part(storage, unit, region.part(begin, min(begin + step, stop)))

    def __call__(
        self,
        units: Sequence[Unit],
        comm: Communicator,
        lr: Tensor,
        momentum: Tensor,
        step: Tensor,
        scale: Tensor,
        ok: Tensor,
    ) -> None:
        """Update `units` in place, one after the other on the stream for updates, marking each with an event.

        lr, momentum, step, scale: 0-dim float64, scale multiplies the gradients, NaN as momentum leaves each rule its
        own; ok: 0-dim bool, take the step.
        """
        if not ok.is_cuda and not ok:
            return
        scalars, scale = self._scalars(lr, momentum, step, ok), scale.float()
        known = comm.compute.record()
        with comm.updates as stream:
            stream.wait(known)
            for unit in units:
                for part in self._parts[unit]:
                    self._kernels[part.group](part.weight, part.extra, part.gradient, part.state, scalars[part.group],
                                              part.known, scale, ok)  # fmt: skip
                unit.updated, unit.spent = stream.record(), True
        # Memory of the compute stream must not be used again before the update has read it.
        self._held = (scalars, scale, ok)

    def _all_scalars(self, lr: Tensor, momentum: Tensor, step: Tensor, ok: Tensor) -> list[dict[str, Tensor]]:
        """The scalars of every group; `kept` numbers take their next values."""
        made = []
        for index, group in enumerate(self.groups):
            rule = group.rule
            own = None if rule.momentum is None else torch.where(momentum.isnan(), rule.momentum, momentum)
            kept = {name: self._kept[name][index].clone() for name in rule.kept}
            now = Now(lr * self.lr_factors[index], step, group.weight_decay, own, kept)
            made.append({name: value.float() for name, value in rule.scalars(now).items()})
            for name, value in rule.keep(now).items():
                self._kept[name][index].copy_(torch.where(ok, value, kept[name]))
        return made

    def _writer(self, rule: Rule) -> Callable:
        master = self.master

        def write(weight: Tensor, extra: Tensor | None, gradient: Tensor, state: tuple[Tensor, ...],
                  scalars: dict[str, Tensor], known: dict[str, Tensor], scale: Tensor, ok: Tensor) -> None:  # fmt: skip
            old = master.load(weight, extra)
            new, new_state = rule.update(old, gradient.float() * scale, state, {**scalars, **known})
            if ok.is_cuda:
                new = torch.where(ok, new, old)
                new_state = tuple(torch.where(ok, n, o) for n, o in zip(new_state, state, strict=True))
            master.store(weight, extra, new)
            for old_values, new_values in zip(state, new_state, strict=True):
                old_values.copy_(new_values)

        return write
