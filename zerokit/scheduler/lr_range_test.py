"""DeepSpeed's LRRangeTest: Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3. The
learning rate grows until the loss does, which shows how large it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.scheduler._base import Rates, Schedule
from zerokit.scheduler._deepspeed import positive


@dataclass
class LRRangeTestOptions:
    """A learning rate that grows without end."""

    lr_range_test_min_lr: float = 1e-3
    """First learning rate."""
    lr_range_test_step_size: int = 2000
    """Steps in which the learning rate grows by `lr_range_test_step_rate` times the first one."""
    lr_range_test_step_rate: float = 1.0
    """Growth in that many steps, in multiples of the first learning rate."""
    lr_range_test_staircase: bool = False
    """Whether it grows all at once at the end of them instead of at each step."""

    def __post_init__(self) -> None:
        positive("lr_range_test_step_size", self.lr_range_test_step_size)


@register("scheduler", "lr_range_test", LRRangeTestOptions)
def build(options: LRRangeTestOptions, total_steps: int, peak_lr: float) -> Schedule:
    """min_lr * (1 + step_rate * step / step_size)."""

    def rates(step: int) -> Rates:
        interval = float(step) / options.lr_range_test_step_size
        interval = math.floor(interval) if options.lr_range_test_staircase else interval
        return Rates(options.lr_range_test_min_lr * (1 + options.lr_range_test_step_rate * interval))

    return rates
