"""Warm-up, stable, decay: Hu et al., "MiniCPM", 2024, section 4; decay shape 1 - √x from Hägele et al., 2024."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from zerokit.config.registry import register
from zerokit.scheduler._base import DecayToOptions, Schedule, in_steps, with_warmup


@dataclass
class WSDOptions(DecayToOptions):
    """The peak for most of the run, then a short decay."""

    decay: int | float = 0.2
    """Length of the decay at the end: below 1 a fraction of all steps, else a number of steps."""
    shape: Literal["sqrt", "linear"] = "sqrt"
    """How the decay falls: as 1 - √x, or in a straight line."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_steps("decay", self.decay, 1)


@register("scheduler", "wsd", WSDOptions)
def build(options: WSDOptions, total_steps: int, peak_lr: float) -> Schedule:
    """Factor 1 until the decay begins, then falling to `final`.

    Raises:
        ValueError: warm-up and decay together are longer than the run.
    """
    warmup = in_steps("scheduler.warmup", options.warmup, total_steps)
    decay = in_steps("scheduler.decay", options.decay, total_steps)
    if warmup + decay > total_steps:
        raise ValueError(
            f"scheduler.warmup ({warmup} steps) and scheduler.decay ({decay} steps) are together longer than the run "
            f"of {total_steps} steps."
        )
    begin = 1 - decay / max(1, total_steps - warmup)

    def shape(x: float) -> float:
        if x <= begin:
            return 1.0
        fallen = (x - begin) / (1 - begin)
        return 1 - (1 - options.final) * (math.sqrt(fallen) if options.shape == "sqrt" else fallen)

    return with_warmup(options, total_steps, peak_lr, shape)
