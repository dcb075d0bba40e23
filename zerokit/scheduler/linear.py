"""A straight line from the peak to the final learning rate."""

from __future__ import annotations

from zerokit.config.registry import register
from zerokit.scheduler._base import DecayToOptions, Schedule, with_warmup


@register("scheduler", "linear", DecayToOptions)
def build(options: DecayToOptions, total_steps: int, peak_lr: float) -> Schedule:
    """Factor 1 falling linearly to `final`."""
    return with_warmup(options, total_steps, peak_lr, lambda x: 1 - (1 - options.final) * x)
