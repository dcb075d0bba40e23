"""Warm-up, and what the shapes after it have in common. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Rates(NamedTuple):
    """What a schedule sets for one step. momentum: also the first beta; None leaves the optimizer its own."""

    lr: float
    momentum: float | None = None


Schedule = Callable[[int], Rates]
"""Rates of a step, counted from 0. The builder of a schedule gets its options, the number of steps of the run and the
optimizer's learning rate, which it calls the peak."""


@dataclass
class WarmupOptions:
    """Linear warm-up from 0 at the start of a run."""

    warmup: int | float = 0
    """Length of the warm-up: below 1 a fraction of all steps, else a number of steps."""
    total_steps: int | None = None
    """Steps that the schedule is made for; null: those of the run. Given, it stays as it is when a run goes on with
    fewer or more `train.steps`."""

    def __post_init__(self) -> None:
        in_steps("warmup", self.warmup, 1)
        if self.total_steps is not None and self.total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {self.total_steps}.")


@dataclass
class DecayToOptions(WarmupOptions):
    """Warm-up, then decay to a final fraction of the peak."""

    final: float = 0.0
    """Learning rate at the end, as a fraction of the peak."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.final <= 1:
            raise ValueError(f"final is a fraction of the peak learning rate, in [0, 1]; got {self.final:g}.")


def in_steps(name: str, length: int | float, total: int) -> int:
    """A length given in steps or, below 1, as a fraction of `total` steps.

    Raises:
        ValueError: negative, or above 1 and not whole.
    """
    if length < 0 or (length >= 1 and length != int(length)):
        raise ValueError(f"{name} is a fraction below 1 or a whole number of steps; got {length:g}.")
    return round(length * total) if length < 1 else int(length)


def with_warmup(options: WarmupOptions, total_steps: int, peak_lr: float, shape: Callable[[float], float]) -> Schedule:
    """Warm-up to the peak, then `shape(x)` times it, with x from 0 (first step after the warm-up) to 1 (one step after
    the last).

    Raises:
        ValueError: the warm-up is longer than the run.
    """
    warmup = warmup_steps(options, total_steps)

    def rates(step: int) -> Rates:
        if step < warmup:
            return Rates(peak_lr * ((step + 1) / warmup))
        return Rates(peak_lr * shape(min(1.0, (step - warmup) / max(1, total_steps - warmup))))

    return rates


def warmup_steps(options: WarmupOptions, total_steps: int) -> int:
    """Length of the warm-up.

    Raises:
        ValueError: it is longer than the run.
    """
    warmup = in_steps("scheduler.warmup", options.warmup, total_steps)
    if warmup > total_steps:
        raise ValueError(f"scheduler.warmup={options.warmup:g} is longer than the run of {total_steps} steps.")
    return warmup
