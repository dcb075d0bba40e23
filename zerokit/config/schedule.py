"""The schedule of the learning rate, and the number of steps that it is made for. Imports no torch."""

from __future__ import annotations

from typing import Any

from zerokit.config import registry
from zerokit.config.schema import Config

PROBES = 200
"""Steps at which two schedules are compared."""


def total_steps(config: Config) -> int:
    """Steps that the schedule is made for: `scheduler.total_steps`, else those of the run."""
    return getattr(config.scheduler.options, "total_steps", None) or config.train.steps


def build_schedule(config: Config, peak_lr: float, steps: int | None = None) -> Any:
    """What gives the rates of a step (`zerokit.scheduler`). steps: that it is made for, if not `total_steps`.

    Raises:
        ValueError: as the builder of the schedule.
    """
    length = steps or total_steps(config)
    return registry.build("scheduler", config.scheduler, total_steps=length, peak_lr=peak_lr)


def fixed_length(config: Config) -> int | None:
    """The number of steps that the schedule depends on; None if it is the same for a run of any length."""
    length = total_steps(config)
    try:
        own, longer = (build_schedule(config, 1.0, steps) for steps in (length, 2 * length + 1))
    except ValueError:  # it depends on the length at least in what it refuses
        return length
    probed = range(0, length, max(1, length // PROBES))
    return None if all(own(step) == longer(step) for step in (*probed, length - 1)) else length
