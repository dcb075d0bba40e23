"""Warm-ups as DeepSpeed computes them (`deepspeed/runtime/lr_schedules.py`, version 0.19).

DeepSpeed sets the learning rate of a step after the step before it. So the first two steps have the rates of the
beginning, and step k (from 0) those of its batch k - 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass
class DeepSpeedWarmupOptions:
    """A warm-up in steps."""

    warmup_num_steps: int = 1000
    """Steps of the warm-up; at least 2 are taken."""
    warmup_type: Literal["log", "linear"] = "log"
    """How the learning rate rises: with the logarithm of the step, or in a straight line."""

    def __post_init__(self) -> None:
        positive("warmup_num_steps", self.warmup_num_steps)

    @property
    def steps(self) -> int:
        """Steps of the warm-up."""
        return max(2, self.warmup_num_steps)

    def risen(self, batch: int) -> float:
        """How far the warm-up has come at a batch (from 0) before its end, from 0 to 1."""
        if self.warmup_type == "log":
            return 1.0 / math.log(self.steps) * math.log(batch + 1)
        return batch / self.steps


@dataclass
class DeepSpeedRangeOptions(DeepSpeedWarmupOptions):
    """A warm-up between two learning rates."""

    warmup_min_lr: float = 0.0
    """Learning rate at the beginning."""
    warmup_max_lr: float | None = None
    """Learning rate at the end of the warm-up; null takes the optimizer's."""


def positive(name: str, value: float) -> None:
    """Raise ValueError unless a value is above 0."""
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value:g}.")


def run_length(total_num_steps: int | None, total_steps: int) -> int:
    """The steps over which a schedule falls."""
    return total_steps if total_num_steps is None else total_num_steps
