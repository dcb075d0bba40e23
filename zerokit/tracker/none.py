"""No tracker: metrics.jsonl and the report are enough."""

from __future__ import annotations

from typing import Any

from zerokit.config.registry import NoOptions, register
from zerokit.tracker._base import RunInfo


class NoTracker:
    """A tracker that shows nothing."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Do nothing."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Do nothing."""


@register("tracker", "none")
def build(options: NoOptions, run: RunInfo) -> NoTracker:
    """Return a tracker that shows nothing."""
    return NoTracker()
