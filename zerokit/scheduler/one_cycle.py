"""DeepSpeed's OneCycle: Smith, "A Disciplined Approach to Neural Network Hyper-Parameters", 2018. The learning rate
goes up and down once while the momentum goes down and up; then both decay."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.scheduler._base import Rates, Schedule
from zerokit.scheduler._deepspeed import positive


@dataclass
class OneCycleOptions:
    """A cycle of two halves, then a decay. (DeepSpeed also sets the second beta to 0.99; here it stays.)"""

    cycle_min_lr: float = 1e-4
    """Learning rate at both ends of the cycle."""
    cycle_max_lr: float | None = None
    """Learning rate in its middle; null takes the optimizer's."""
    decay_lr_rate: float = 0.0
    """After the cycle the learning rate is divided by 1 + this per `decay_step_size` steps."""
    cycle_first_step_size: int = 2000
    """Steps of the first half."""
    cycle_second_step_size: int | None = None
    """Steps of the second half; null takes as many as in the first."""
    cycle_first_stair_count: int = 0
    """Stairs in the first half; 0 rises at every step."""
    cycle_second_stair_count: int | None = None
    """Stairs in the second half; null takes as many as in the first."""
    decay_step_size: int = 0
    """Steps in which the decays apply once; 0 does not decay."""
    cycle_momentum: bool = True
    """Whether the momentum, or the first beta, moves as well."""
    cycle_min_mom: float = 0.8
    """Momentum in the middle of the cycle, and at its very first step."""
    cycle_max_mom: float = 0.9
    """Momentum at both ends of the cycle."""
    decay_mom_rate: float = 0.0
    """After the cycle the momentum is multiplied with 1 + this per `decay_step_size` steps."""

    def __post_init__(self) -> None:
        positive("cycle_first_step_size", self.cycle_first_step_size)
        if self.cycle_second_step_size is not None:
            positive("cycle_second_step_size", self.cycle_second_step_size)


class _Cycle:
    """Where a step is in the cycle."""

    def __init__(self, options: OneCycleOptions):
        self.first = float(options.cycle_first_step_size)
        second = options.cycle_second_step_size
        self.second = self.first if second is None else float(second)
        self.total = self.first + self.second
        stairs = options.cycle_second_stair_count
        self.stairs = (options.cycle_first_stair_count, options.cycle_first_stair_count if stairs is None else stairs)

    def height(self, step: int) -> float:
        """From 0 at the ends to 1 in the middle."""
        x = 1.0 + step / self.total - math.floor(1 + step / self.total)
        ratio = self.first / self.total
        rising = x <= ratio
        stairs = self.stairs[0] if rising else self.stairs[1]
        if stairs > 0:
            place = step % self.total
            left = self.total - place
            height = place * stairs / self.first if place <= self.first else left * stairs / self.second
            return math.floor(height) / stairs
        return x / ratio if rising else (x - 1) / (ratio - 1)


@register("scheduler", "one_cycle", OneCycleOptions)
def build(options: OneCycleOptions, total_steps: int, peak_lr: float) -> Schedule:
    """One cycle of learning rate and momentum, then their decay."""
    cycle, low = _Cycle(options), options.cycle_min_lr
    high = peak_lr if options.cycle_max_lr is None else options.cycle_max_lr
    least, most = options.cycle_min_mom, options.cycle_max_mom

    def decay(rate: float, step: int) -> float:
        return 1 + rate * ((step - cycle.total) / options.decay_step_size) if options.decay_step_size else 1.0

    def rates(step: int) -> Rates:
        if step <= cycle.total:
            height = cycle.height(step)
            lr, momentum = low + (high - low) * height, most - (most - least) * height
        else:
            lr, momentum = low / decay(options.decay_lr_rate, step), most * decay(options.decay_mom_rate, step)
        momentum = least if step == 0 else momentum
        return Rates(lr, momentum if options.cycle_momentum else None)

    return rates
