"""DeepSpeed's WarmupDecayLR: a warm-up, then a straight line to the lowest learning rate."""

from __future__ import annotations

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.scheduler._base import Rates, Schedule
from zerokit.scheduler._deepspeed import DeepSpeedRangeOptions, run_length


@dataclass
class WarmupDecayOptions(DeepSpeedRangeOptions):
    """A warm-up between two learning rates, and the way back."""

    total_num_steps: int | None = None
    """Step at which the lowest learning rate is reached again; null takes train.steps."""


@register("scheduler", "warmup_decay", WarmupDecayOptions)
def build(options: WarmupDecayOptions, total_steps: int, peak_lr: float) -> Schedule:
    """From `warmup_min_lr` to `warmup_max_lr` and back."""
    low, total = options.warmup_min_lr, run_length(options.total_num_steps, total_steps)
    high = peak_lr if options.warmup_max_lr is None else options.warmup_max_lr

    def left(batch: int) -> float:
        if batch < options.steps:
            return options.risen(batch)
        return max(0.0, float(total - batch) / float(max(1.0, total - options.steps)))

    def rates(step: int) -> Rates:
        return Rates(low if step == 0 else low + (high - low) * left(step - 1))

    return rates
