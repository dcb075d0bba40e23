"""TensorBoard: event files in the output folder, shown by `tensorboard --logdir RUN_FOLDER`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zerokit.config.registry import register
from zerokit.tracker._base import RunInfo


@dataclass
class TensorboardOptions:
    """How often the event file is written."""

    flush_secs: float = 10.0
    """Seconds between two writes to the disk; what is shown of a running training is at most that old."""

    def __post_init__(self) -> None:
        if not self.flush_secs > 0:
            raise ValueError(f"flush_secs must be above 0 seconds, got {self.flush_secs}.")


@register("tracker", "tensorboard", TensorboardOptions)
def build(options: TensorboardOptions, run: RunInfo) -> Any:
    """Open an event file in `run.directory`/tensorboard and return its tracker."""
    from zerokit.tracker._tensorboard import TensorboardTracker

    return TensorboardTracker(options, run)
