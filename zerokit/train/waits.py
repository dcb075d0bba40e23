"""Who waits for whom: the device for the host, or the host for the device."""

from __future__ import annotations

import math


class Waits:
    """Whether the device waits for the host: it has caught up with it whenever the host looks.

    Ranks wait for one another, so the host that is ahead of the others waits where its device has nothing to do either:
    the shortest wait of all ranks counts, which a line of metrics knows of the window before it.
    """

    STEPS = 5
    """A window of fewer steps says nothing: the host could not have got far ahead in it."""
    SHARE = 0.25
    """Of a step's time that the device may still have to do when the host looks, the update above all."""
    QUEUE = 512
    """Kernels; CUDA lets the host get about twice as far ahead, so that a busy device has more than these to do."""

    def __init__(self, kernels: int) -> None:
        """kernels: of a step, rather too many than too few."""
        self._share = min(self.SHARE, self.QUEUE / kernels)
        self.last = math.nan
        """What this rank waited for at the end of the last window, in steps."""
        self._caught_up: list[bool] = []

    def measure(self, waited: float, step: float, steps: int, data: float) -> None:
        """After `steps` steps of `step` seconds each the host waited for `waited` seconds; `data` is the share of the
        time that went into getting data."""
        self.last = math.inf if data > self.SHARE else waited / step if steps >= self.STEPS else math.nan

    def note(self, ranks: list[float]) -> None:
        """`last` of every rank."""
        if not any(map(math.isnan, ranks)):
            self._caught_up.append(min(ranks) < self._share)

    @property
    def host_limits(self) -> bool:
        """Whether this was so in most windows but the first, which compiles and warms up."""
        windows = self._caught_up[1:]
        return sum(windows) > len(windows) / 2
