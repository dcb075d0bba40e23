"""Half a cosine from the peak to the final learning rate: Loshchilov and Hutter, "SGDR", 2017, equation 5."""

from __future__ import annotations

import math

from zerokit.config.registry import register
from zerokit.scheduler._base import DecayToOptions, Schedule, with_warmup


@register("scheduler", "cosine", DecayToOptions)
def build(options: DecayToOptions, total_steps: int, peak_lr: float) -> Schedule:
    """Factor 1 falling along a half cosine to `final`."""

    def shape(x: float) -> float:
        return options.final + (1 - options.final) * 0.5 * (1 + math.cos(math.pi * x))

    return with_warmup(options, total_steps, peak_lr, shape)
