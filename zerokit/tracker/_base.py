"""What a tracker is told about a run, and what it must offer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class RunInfo:
    """A run as trackers present it."""

    directory: Path
    """Output folder of the run; a tracker writes only below it."""
    config: dict[str, Any]
    """The resolved config as plain values."""
    name: str | None = None
    """Name of the run; None takes the name of the output folder."""
    group: str | None = None
    """Runs that belong together, such as the jobs of a sweep."""
    job_type: str = "train"
    """Kind of work."""
    tags: list[str] = field(default_factory=list)
    """Words to find the run by."""
    id: str | None = None
    """Under which the tracker knows the run already, if it goes on."""


class Tracker(Protocol):
    """A view of the metrics. Built as `builder(options, run=RunInfo)` and called on rank 0 only; it never raises.

    An attribute `id`, if it has one, is kept in saved states, so that a run that goes on is the same in the tracker.
    """

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Show the metrics of one step (counted in optimizer steps)."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Close the run with the contents of summary.json; later calls do nothing."""
