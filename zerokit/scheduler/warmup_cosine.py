"""DeepSpeed's WarmupCosineLR: a warm-up, then half a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.scheduler._base import Rates, Schedule
from zerokit.scheduler._deepspeed import DeepSpeedWarmupOptions, run_length


@dataclass
class WarmupCosineOptions(DeepSpeedWarmupOptions):
    """A warm-up and a decay, as ratios of the optimizer's learning rate."""

    total_num_steps: int | None = None
    """Step at which the decay ends; null takes train.steps."""
    warmup_min_ratio: float = 0.0
    """Ratio at the beginning."""
    cos_min_ratio: float = 0.0001
    """Ratio at the end."""


@register("scheduler", "warmup_cosine", WarmupCosineOptions)
def build(options: WarmupCosineOptions, total_steps: int, peak_lr: float) -> Schedule:
    """From `warmup_min_ratio` to the whole peak and down to `cos_min_ratio`; the very first step has the rate 0."""
    total = run_length(options.total_num_steps, total_steps)
    low, end = options.warmup_min_ratio, options.cos_min_ratio

    def ratio(batch: int) -> float:
        if batch < options.steps:
            return low + options.risen(batch) * (1.0 - low)
        fallen = min(1.0, (batch - options.steps + 1) / max(1, total - options.steps))
        return max(0.0, end + (1.0 - end) * ((1 + math.cos(math.pi * fallen)) / 2))

    def rates(step: int) -> Rates:
        return Rates(0.0 if step == 0 else peak_lr * ratio(step - 1))

    return rates
