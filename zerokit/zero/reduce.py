"""Gradients after backward: from each rank's own to the stage's placement, unit by unit while backward goes on."""

from __future__ import annotations

import torch
from torch import Tensor

from zerokit.comm import Communicator
from zerokit.zero.placement import Collective, Placement, transition
from zerokit.zero.storage import Storage
from zerokit.zero.unit import Slot, Unit


class Reducer:
    """Accumulates the gradients of micro-batches and sums them over the ranks.

    [Note: order of reductions] Every rank must issue the same collectives in the same order, but a unit that a rank
    does not use has no gradients to announce it. So units are reduced in one fixed order; a unit whose gradients are
    there waits for those before it, and what is left at the end of backward follows with zeros. The order is that in
    which rank 0 completed them in the first backward pass.
    """

    def __init__(self, storage: Storage, comm: Communicator):
        self.storage, self.comm = storage, comm
        self.order = list(reversed(storage.trainable))
        self._completed: list[Unit] | None = []  # recording the first backward; None afterwards
        self._place = {unit: index for index, unit in enumerate(self.order)}
        self._next = 0
        self._first = self._last = True
        self._turn = {"block": 0, "rest": 0}
        self._done = None
        self._views: dict[tuple[int, Unit], list[Tensor]] = {}

    def begin(self, first: bool, last: bool) -> None:
        """A backward pass starts: that of the `first` and/or `last` micro-batch of a step."""
        self._first, self._last, self._next = first, last, 0
        for unit in self.order:
            unit.reduced = False

    def try_reduce(self, unit: Unit) -> None:
        """Reduce the unit if backward has reached all its parameters and its turn has come.

        Autograd sets a parameter's gradient once per backward pass, when all its uses have contributed.
        """
        if unit.reduced or any(p.grad is None for p in unit.parameters):
            return
        if self._completed is not None and unit not in self._completed:
            self._completed.append(unit)
        while self._next < len(self.order):
            candidate = self.order[self._next]
            if any(p.grad is None for p in candidate.parameters):
                return
            self._reduce(candidate)

    def flush(self) -> None:
        """The backward pass is over: reduce what is left, with zeros for parameters it did not reach."""
        while self._next < len(self.order):
            self._reduce(self.order[self._next])
        if self._completed is not None:
            self._settle_order()

    def finish(self) -> None:
        """Make later work on the compute stream see every reduced gradient."""
        self.comm.compute.wait(self._done)

    def _settle_order(self) -> None:
        completed = self._completed + [u for u in self.order if u not in self._completed]
        places = torch.tensor([self._place[u] for u in completed], device=self.comm.device)
        self.comm.broadcast(places)
        self.order = [self.order[place] for place in places.tolist()]
        self._completed = None

    # -- one unit ----------------------------------------------------------------------------------------------------

    def _reduce(self, unit: Unit) -> None:
        self._next += 1
        unit.reduced = True
        stage = self.storage.stage
        after_micro_batch = transition(Placement.PARTIAL, stage.gradient)
        if after_micro_batch is not Collective.NOTHING:
            wire = self._wire(unit)
            self._write(unit, wire.buffer, accumulate=False)
            self._send(unit, wire, after_micro_batch, unit.gradient, accumulate=not self._first)
            return
        self._write(unit, unit.gradient, accumulate=not self._first)
        if self._last:
            self._boundary(unit, transition(stage.gradient, stage.optimizer))

    def _boundary(self, unit: Unit, collective: Collective) -> None:
        result = unit.gradient if collective is Collective.ALL_REDUCE else self.storage.own(unit, unit.gradient)
        if not self.storage.wires:  # stored as they travel: reduced where they lie
            self._send(unit, Slot(unit.gradient), collective, result, accumulate=False)
            return
        wire = self._wire(unit)
        wire.buffer[: unit.layout.total].copy_(unit.gradient)
        self._send(unit, wire, collective, result, accumulate=False)

    def _wire(self, unit: Unit) -> Slot:
        """The next buffer for gradients on their way, once its last reduction is over."""
        kind = unit.kind if unit.kind == "block" else "rest"
        ring = self.storage.wires[kind]
        slot = ring[self._turn[kind] % len(ring)]
        self._turn[kind] += 1
        self.comm.compute.wait(slot.free)
        if slot.owner is not None and slot.owner.layout != unit.layout:
            slot.buffer.zero_()  # padding must be zero, and lay elsewhere
        slot.owner = unit
        return slot

    def _write(self, unit: Unit, buffer: Tensor, accumulate: bool) -> None:
        key = (buffer.data_ptr(), unit)
        if key not in self._views:
            self._views[key] = unit.views(buffer)
        views = self._views[key]
        missing = [v for v, p in zip(views, unit.parameters, strict=True) if p.grad is None]
        if missing:
            if not accumulate:
                torch._foreach_zero_(missing)
            views = [v for v, p in zip(views, unit.parameters, strict=True) if p.grad is not None]
        gradients = [p.grad for p in unit.parameters if p.grad is not None]
        if gradients:
            (torch._foreach_add_ if accumulate else torch._foreach_copy_)(views, gradients)
        for parameter in unit.parameters:
            parameter.grad = None

    def _send(self, unit: Unit, wire: Slot, collective: Collective, result: Tensor, accumulate: bool) -> None:
        """Sum `wire` over the ranks on the reduction stream and leave what this rank keeps in `result`."""
        full = wire.buffer[: unit.layout.total]
        written = self.comm.compute.record()
        with self.comm.reductions as stream:
            stream.wait(written)
            if collective is Collective.ALL_REDUCE:
                self.comm.all_reduce(full)
                reduced = full
            else:
                reduced = self.storage.own(unit, full)
                direct = not accumulate and result.dtype == full.dtype
                target = result if direct else reduced
                self.comm.reduce_scatter(target, full)
                reduced = target
            if accumulate:
                result.add_(reduced)
            elif reduced.data_ptr() != result.data_ptr():
                result.copy_(reduced)
            wire.free = self._done = stream.record()
