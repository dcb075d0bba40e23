"""Axes: from a range of values to round ticks with short labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

LOG_RATIO = 30
SUFFIXES = ("", "k", "M", "G", "T", "P")
LARGEST = 999.5e15
"""From here on numbers have no suffix but an exponent."""


@dataclass(frozen=True)
class Scale:
    """Maps values to fractions of an axis' length, 0 at its start and 1 at its end."""

    low: float
    high: float
    ticks: list[float]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value."""
        low, high, value = (math.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return (value - low) / (high - low)

    def labels(self) -> list[str]:
        """Return the ticks as texts, all with the same number of decimals where that is readable."""
        if self.logarithmic or len(self.ticks) < 2:
            return [format_tick(tick) for tick in self.ticks]
        step = self.ticks[1] - self.ticks[0]
        largest = max(abs(tick) for tick in self.ticks)
        if largest < 0.01:
            return [format_tick(tick) for tick in self.ticks]
        if largest < 10000:
            return [f"{tick:.{_decimals(step)}f}" for tick in self.ticks]
        short = [format_tick(tick) for tick in self.ticks]
        if len(set(short)) == len(short):
            return short
        if largest >= LARGEST:
            return [f"{tick:.{_digits(step, largest)}e}".replace("e+", "e") for tick in self.ticks]
        power = min(int(math.log10(largest) / 3), len(SUFFIXES) - 1)
        size = 1000.0**power
        return [f"{tick / size:.{_decimals(step / size)}f}{SUFFIXES[power]}" for tick in self.ticks]


def _decimals(step: float) -> int:
    """Return how many decimals tell multiples of a round step apart."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return decimals + 1 if round(step * 10**decimals, 6) % 1 else decimals


def _digits(step: float, largest: float) -> int:
    """Return how many decimals of a mantissa tell ticks apart."""
    return min(15, math.ceil(math.log10(largest / step)) + 1)


def format_tick(value: float) -> str:
    """Return a number in few characters: `0`, `2.5e-4`, `0.05`, `48k`, `1.5M`, `2e18`."""
    if value and not 0.01 <= abs(value) < LARGEST:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    if abs(value) < 1000:
        return f"{value:.4g}"
    power = next(power for power in range(1, len(SUFFIXES)) if abs(value) < 999.5 * 1000.0**power)
    return f"{float(f'{value / 1000.0**power:.3g}'):g}{SUFFIXES[power]}"


def linear(values: Iterable[float], count: int = 5, zero: bool = False) -> Scale:
    """Return a scale from round tick to round tick around the values, about `count` ticks, including 0 if asked."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= abs(high) * 1e-9:
        low, high = (low - abs(low) * 0.5, high + abs(high) * 0.5) if high else (0.0, 1.0)
        low = 0.0 if zero and high > 0 else low
    step = _round_step((high - low) / max(count - 1, 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [index * step for index in range(first, last + 1)]
    return Scale(ticks[0], ticks[-1], ticks)


def steps(values: Iterable[float], count: int = 6) -> Scale:
    """Return a scale for the x axis: exactly as wide as the values, with round ticks inside."""
    known = list(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    if high == low:
        low, high = low - 1, high + 1
    step = math.ceil(_round_step((high - low) / count))  # of steps there are no halves
    ticks = [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Scale(low, high, ticks or [low])


def automatic(values: Iterable[float], log_above: float = LOG_RATIO) -> Scale:
    """Return a linear scale, or a logarithmic one where positive values differ by more than the factor `log_above`."""
    finite = [value for value in values if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) / min(finite) > log_above:
        return _logarithmic(min(finite), max(finite))
    return linear(finite)


def _logarithmic(low: float, high: float) -> Scale:
    """Return a scale a little wider than the values, so that a flat end keeps its shape, with round ticks inside."""
    margin = (high / low) ** 0.03
    low, high = low / margin, high * margin
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)):
        ticks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 7:
            return Scale(low, high, ticks, logarithmic=True)
    return Scale(low, high, ticks[:: math.ceil(len(ticks) / 7)], logarithmic=True)


def _round_step(rough: float) -> float:
    """Return the round number (1, 2, 2.5 or 5 times a power of ten) at or above `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 2.5, 5, 10):
        if factor * power >= rough * (1 - 1e-9):
            return factor * power
    return 10 * power
