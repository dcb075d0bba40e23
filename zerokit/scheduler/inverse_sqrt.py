"""The inverse root of the step after a warm-up: Vaswani et al., "Attention Is All You Need", 2017, equation 3."""

from __future__ import annotations

import math

from zerokit.config.registry import register
from zerokit.scheduler._base import Rates, Schedule, WarmupOptions, warmup_steps


@register("scheduler", "inverse_sqrt", WarmupOptions)
def build(options: WarmupOptions, total_steps: int, peak_lr: float) -> Schedule:
    """The peak at the last step t of the warm-up, then peak * √(t / step) with steps counted from 1."""
    warmup = max(1, warmup_steps(options, total_steps))

    def rates(step: int) -> Rates:
        number = step + 1
        return Rates(peak_lr * (number / warmup if number < warmup else math.sqrt(warmup / number)))

    return rates
