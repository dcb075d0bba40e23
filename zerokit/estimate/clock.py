"""Time on a device with several streams, as far as an estimate needs it."""

from __future__ import annotations

from collections import Counter
from types import TracebackType


class Clock:
    """One reading per stream, in seconds. Work goes to the current stream, in the order in which it is issued.

    [Note: what is shared] Kernels of side streams (the update, sums of gradients) take the same units as those of the
    compute stream: their time is added to both. A transfer takes no units, but its reads and writes take memory
    bandwidth from the compute stream. busy: seconds by what they were spent on.
    """

    def __init__(self) -> None:
        self.compute = Lane(self, "compute")
        self.current = self.compute
        self.busy: Counter[str] = Counter()
        self.kernels = 0

    def work(self, seconds: float, kind: str) -> None:
        """A kernel on the device's units."""
        self.busy[kind] += seconds
        self.kernels += 1
        self.current.now += seconds
        if self.current is not self.compute:
            self.compute.now += seconds

    def transfer(self, seconds: float, memory: float) -> None:
        """Bytes on their way, `memory` seconds of which the device's memory is taken."""
        self.busy["transfers"] += memory
        self.current.now += max(seconds, memory)
        if self.current is not self.compute:
            self.compute.now += memory


class Lane:
    """One stream: the interface of `zerokit.comm.Stream`, whose events are readings of the clock."""

    def __init__(self, clock: Clock, name: str):
        self.clock, self.name, self.now = clock, name, 0.0
        self._before: list[Lane] = []

    def record(self, _event: float | None = None) -> float:
        """The moment at which all work issued so far is done."""
        return self.now

    def synchronize(self) -> None:
        """The host has no clock here."""

    def wait(self, event: float | None) -> None:
        """Later work starts after `event`."""
        if event is not None:
            self.now = max(self.now, event)

    def __enter__(self) -> Lane:
        self._before.append(self.clock.current)
        self.clock.current = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clock.current = self._before.pop()
