"""DeepSpeed's WarmupLR: a warm-up, then the learning rate stays."""

from __future__ import annotations

from zerokit.config.registry import register
from zerokit.scheduler._base import Rates, Schedule
from zerokit.scheduler._deepspeed import DeepSpeedRangeOptions


@register("scheduler", "warmup", DeepSpeedRangeOptions)
def build(options: DeepSpeedRangeOptions, total_steps: int, peak_lr: float) -> Schedule:
    """From `warmup_min_lr` to `warmup_max_lr`."""
    low = options.warmup_min_lr
    high = peak_lr if options.warmup_max_lr is None else options.warmup_max_lr

    def rates(step: int) -> Rates:
        batch = step - 1
        if batch < 0:
            return Rates(low)
        return Rates(low + (high - low) * (options.risen(batch) if batch < options.steps else 1.0))

    return rates
