"""The largest value of an option whose cell fits into memory: doubled until one does not, then halved in between.

Where memory is predicted, predictions are searched first, and the first cell to run is the largest predicted to fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.launcher import Launcher

from zerokit.config import hydra_private
from zerokit.config.errors import ConfigError
from zerokit.sweep.cell import Cell, State, short
from zerokit.sweep.predict import Forecast

MEMORY = re.compile(r"out ?of ?memory|can(no|')?t allocate|DefaultCPUAllocator|SIGKILL", re.IGNORECASE)


@dataclass
class Search:
    """The search for one combination of the other options."""

    start: int
    most: int
    accuracy: float
    fits: int = 0
    """The largest value that fitted; 0 before there is one."""
    too_large: int | None = None
    """The smallest value that did not."""
    why: str = ""
    """Why it did not."""
    broken: bool = False
    """Whether a cell failed for another reason, which says nothing about its size."""

    @property
    def next(self) -> int | None:
        """The value to try, or None if the search is over."""
        if self.broken or self.fits >= self.most:
            return None
        if self.too_large is None:
            return min(self.most, 2 * self.fits or self.start)
        if not self.fits and self.start < self.too_large:
            return self.start
        if self.too_large - self.fits <= 1 or self.fits and self.too_large <= self.accuracy * self.fits:
            return None
        return (self.fits + self.too_large) // 2

    def foresee(self, forecast: Callable[[int], Forecast | None]) -> None:
        """Start at the largest value that `forecast` says will fit; where it says nothing, as if never asked."""
        ahead = replace(self)
        while (value := ahead.next) is not None:
            found = forecast(value)
            if found is None or found.gib is None:
                return
            if found.too_large:
                ahead.too_large, ahead.why = value, found.too_large
            else:
                ahead.fits = value
        if ahead.fits:
            self.start, self.too_large, self.why = ahead.fits, ahead.too_large, ahead.why

    def learn(self, value: int, cell: Cell) -> None:
        """Take in how the cell with a value ended."""
        if cell.state is State.FAILED and MEMORY.search(cell.reason):
            cell.state = State.TOO_LARGE  # what was looked for, not a failure
        if cell.state is State.TOO_LARGE:
            self.too_large, self.why = value, cell.reason.strip().partition("\n")[0]
        elif cell.state is State.FAILED:
            self.broken = True
        else:
            self.fits = value

    def __str__(self) -> str:
        largest = str(self.fits or "none")
        if self.broken:
            return f"{largest} so far; the search ended with a failure"
        if self.too_large is None:
            return f"{largest}, the most that is tried (hydra.sweeper.most)"
        return f"{largest}; {self.too_large} does not fit: {self.why}"


def search(launcher: Launcher, words: list[str], key: str, **options: Any) -> dict[str, int]:
    """Return the largest value of `key` that fits, by the words of each combination, and let the launcher say it.

    Raises:
        ConfigError: if the launcher is not zerokit's, which alone says why a cell ended.
    """
    if not hasattr(launcher, "forecast"):
        raise ConfigError("hydra/sweeper=zerokit_growth needs hydra/launcher=zerokit.")
    grid = hydra_private.jobs(OverridesParser.create().parse_overrides(words))
    searches = [Search(**options) for _ in grid]
    for job, one in zip(grid, searches, strict=True):
        one.foresee(lambda value, job=job: launcher.forecast([*job, f"++{key}={value}"]))
    launched = 0
    while due := [(job, one) for job, one in zip(grid, searches, strict=True) if one.next is not None]:
        values = [one.next for _, one in due]
        batch = [[*job, f"++{key}={value}"] for (job, _), value in zip(due, values, strict=True)]
        for (_, one), value, result in zip(due, values, launcher.launch(batch, launched), strict=True):
            one.learn(value, result.cell)
        launched += len(batch)
    common = set.intersection(*map(set, grid))
    for job, one in zip(grid, searches, strict=True):
        name = " ".join(short(word) for word in job if word not in common)
        launcher.conclude(f"{name}: largest {key} {one}".removeprefix(": "))
    return {" ".join(job): one.fits for job, one in zip(grid, searches, strict=True)}
