"""Trackers: where the metrics of a run are shown. metrics.jsonl is always written, whichever tracker is chosen."""

from zerokit.tracker._base import RunInfo, Tracker

__all__ = ["RunInfo", "Tracker"]
