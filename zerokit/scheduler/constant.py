"""The peak learning rate after the warm-up."""

from __future__ import annotations

from zerokit.config.registry import register
from zerokit.scheduler._base import Schedule, WarmupOptions, with_warmup


@register("scheduler", "constant", WarmupOptions)
def build(options: WarmupOptions, total_steps: int, peak_lr: float) -> Schedule:
    """Factor 1 after the warm-up."""
    return with_warmup(options, total_steps, peak_lr, lambda x: 1.0)
