"""A power of the way that is left, from the peak to the final learning rate: the "poly" policy of Liu et al.,
"ParseNet", 2015; power 1 is a straight line."""

from __future__ import annotations

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.scheduler._base import DecayToOptions, Schedule, with_warmup


@dataclass
class PolynomialOptions(DecayToOptions):
    """Warm-up, then a polynomial decay to a final fraction of the peak."""

    power: float = 2.0
    """Power of the part of the run that is left."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.power > 0:
            raise ValueError(f"power must be above 0, got {self.power:g}.")


@register("scheduler", "polynomial", PolynomialOptions)
def build(options: PolynomialOptions, total_steps: int, peak_lr: float) -> Schedule:
    """The peak, falling as (1 - x) ** power to `final` of it."""

    def shape(x: float) -> float:
        return options.final + (1 - options.final) * (1 - x) ** options.power

    return with_warmup(options, total_steps, peak_lr, shape)
