"""Gradients after backward: from each rank's own to the stage's placement, unit by unit while backward goes on."""

from __future__ import annotations

from zerokit.comm import Communicator
from zerokit.zero.model.views import take_grad
from zerokit.zero.placement import Home, own_terms, path
from zerokit.zero.storage import Storage
from zerokit.zero.unit import Unit
from zerokit.zero.update.grad_norm import GradientNorm
from zerokit.zero.update.unused import Unused
from zerokit.zero.wire import CollectiveWire, PeerWire


class Reducer:
    """Accumulates the gradients of micro-batches and sums them over the ranks.

    [Note: order of reductions] Every rank must issue the same collectives in the same order, but a unit that a rank
    does not use has no gradients to announce it. So units are reduced in one fixed order; a unit whose gradients are
    there waits for those before it, and what is left at the end of backward follows with zeros. The order is that in
    which rank 0 completed them in the first backward pass.
    """

    def __init__(self, storage: Storage, comm: Communicator, wire: CollectiveWire | PeerWire, norm: GradientNorm,
                 unused: Unused | None = None):  # fmt: skip
        self.storage, self.comm, self._wire, self._norm, self._unused = storage, comm, wire, norm, unused
        self.order = list(reversed(storage.trainable))
        self._parameters = [p for unit in self.order for p in unit.parameters]
        self._completed: list[Unit] | None = []  # recording the first backward; None afterwards
        self._place = {unit: index for index, unit in enumerate(self.order)}
        self._next = 0
        self._first = self._last = True
        self._writes_in_place = not path(own_terms(comm.mesh), storage.stage.gradient)
        self.aim(storage.stage.optimizer)

    @property
    def landing_bytes(self) -> int:
        """Bytes in which gradients of other ranks land, beside the storage."""
        return self._wire.landing_bytes

    def aim(self, target: Home) -> None:
        """Where the gradients of the next steps go: the optimizer's home, or their own to leave them apart."""
        self.target, self._norm.local = target, target.apart
        self._boundary = path(self.storage.stage.gradient, target)

    def begin(self, first: bool, last: bool) -> None:
        """A backward pass starts: that of the `first` and/or `last` micro-batch of a step."""
        self._first, self._last, self._next = first, last, 0
        if first and self._boundary:  # a backward pass that was given up may still be summed where it lies
            self._follow_sums()
        for unit in self.order:
            unit.reduced = False

    def reduce_complete(self, unit: Unit) -> None:
        """Backward has reached all parameters of the unit: reduce it when its turn has come."""
        if self._completed is not None and unit not in self._completed:
            self._completed.append(unit)
        while self._next < len(self.order):
            candidate = self.order[self._next]
            if candidate is not unit and not candidate.complete:
                return
            self._reduce(candidate)

    def flush(self) -> None:
        """The backward pass is over: reduce what is left, with zeros for parameters it did not reach."""
        while self._next < len(self.order):
            self._reduce(self.order[self._next])
        if self._completed is not None:
            self._settle_order()

    def complete(self) -> None:
        """No micro-batch of the step was begun as its last: make up for what that one does."""
        for unit in self.order:
            self._complete(unit)

    def abandon(self) -> None:
        """Forget the gradients of a backward pass that failed."""
        for unit in self.order:
            unit.take_gradients()
            if unit.rows:
                unit.rows.clear()

    def finish(self) -> None:
        """Make later work on the compute stream see every reduced gradient."""
        self._follow_sums()
        self._wire.finish()

    def _follow_sums(self) -> None:
        for stream in dict.fromkeys((self.comm.reductions, self.comm.outer)):
            self.comm.compute.wait(stream.record())

    def names_with_gradients(self) -> list[str]:
        """Names of the parameters in which backward has left gradients that have not been reduced."""
        if list(map(take_grad, self._parameters)).count(None) == len(self._parameters):
            return []  # asked twice a step of every parameter, so in few instructions
        return [name for unit in self.order for name in unit.names_with_gradients]

    def forget_events(self) -> None:
        """Drop the events of the wire, which are done."""
        self._wire.forget_events()

    def _settle_order(self) -> None:
        completed = self._completed + [u for u in self.order if u not in self._completed]
        places = self.comm.gather_row([float(self._place[unit]) for unit in completed])[0]
        self.order = [self.order[int(place)] for place in places]
        self._completed = None

    def _reduce(self, unit: Unit) -> None:
        self._next += 1
        unit.reduced = True
        gradients = unit.take_gradients()
        if self._unused is not None:
            self._unused.note(unit, gradients, self._first)
        # The update has read the gradient of the step before; what follows it on its stream may wait for a copy.
        self.comm.compute.wait(unit.updated)
        unit.hold_gradient()
        if self._writes_in_place:
            self._wire.write(unit, gradients, unit.gradient.values, accumulate=not self._first)
        else:
            self._wire.scatter(unit, gradients, accumulate=not self._first)
        if self._last:
            self._complete(unit)

    def _complete(self, unit: Unit) -> None:
        """Bring the unit's gradients to their target, and take their norm."""
        stream = self.comm.reductions
        if self._boundary:
            stream = self._wire.reduce(unit, self._boundary)
        elif self._writes_in_place:
            stream.wait(self.comm.compute.record())
        with stream:
            self._norm.add(unit)
