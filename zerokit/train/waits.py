"""Who waits for whom: the device for the host, or the host for the device."""

from __future__ import annotations


class Waits:
    """Whether the device waits for the host: it has caught up with it whenever the host looks."""

    STEPS = 5
    """A window of fewer steps says nothing: the host could not have got far ahead in it."""
    SHARE = 0.25
    """Of a step's time that the device may still have to do when the host looks, the update above all."""

    def __init__(self) -> None:
        self._caught_up: list[bool] = []

    def note(self, waited: float, step: float, steps: int, data: float) -> None:
        """After `steps` steps of `step` seconds each the host waited for `waited` seconds; `data` is the share of the
        time that went into getting data."""
        if steps >= self.STEPS:
            self._caught_up.append(waited < self.SHARE * step and data < self.SHARE)

    @property
    def host_limits(self) -> bool:
        """Whether this was so in most windows but the first, which compiles and warms up."""
        windows = self._caught_up[1:]
        return sum(windows) > len(windows) / 2
