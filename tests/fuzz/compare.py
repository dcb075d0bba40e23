"""What came out of a program: one of six outcomes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.fuzz.program import Program

REFUSALS = {
    "used outside its module": r"Parameters of '.*' were used, but the forward of its module was not called",
    "units inside one another": r"need whole weights at the same time, but share memory for them",
}
"""Errors that are an answer, by what they refuse. Each says what to do instead."""

FINE = frozenset({"same", "refused", "invalid"})


@dataclass(frozen=True)
class Result:
    """An outcome, and what it rests on in a line or two."""

    outcome: str
    reason: str = ""

    @property
    def fine(self) -> bool:
        """Whether zerokit kept its promise."""
        return self.outcome in FINE


@dataclass(frozen=True)
class Tolerance:
    """How far a tensor may be from PyTorch's: `own` times its largest element (of a weight: its largest change), and
    `shared` times the largest of its kind."""

    own: float
    shared: float


# [Note: tolerances] fp32: both sides run the same kernels, but add up gradients of ranks, micro-batches and shared
# weights in another order, and zerokit's update multiplies in another order: a few units in the last place (6e-8) of
# the largest term, which momentum, Adam's 1 / eps and four steps raise to 1e-5 of a change at most; a weight itself is
# rounded to 1e-7 of its size, which is 1e-5 of a change of 0.01. bf16: weights that differ in their last bit round to
# bf16 weights 4e-3 apart, now and then. A wrong gradient (of other weights, counted twice, missing, of other ranks)
# is off by about its own size.
TOLERANCES = {"fp32": Tolerance(1e-3, 1e-4), "bf16": Tolerance(0.1, 0.02)}


def invalid(wanted: Any) -> Result | None:
    """The outcome of a program that PyTorch does not run; `wanted` is (first weights, record of each rank) where it
    does."""
    if wanted is None:
        return Result("invalid", "PyTorch gave no answer in time")
    if not isinstance(wanted, tuple):
        return Result("invalid", f"{wanted.kind}: {wanted.message}")
    numbers = (value for record in wanted[1] for value in record.values())
    return None if all(np.isfinite(value).all() for value in numbers) else Result("invalid", "values that are not finite")


def judge(program: Program, wanted: Any, answers: list[Any]) -> Result:
    """Compare what PyTorch gave with each rank's answer: its record, a Failure, or None."""
    first, records = wanted
    silent = [rank for rank, answer in enumerate(answers) if answer is None]
    failures = [answer for answer in answers if answer is not None and not isinstance(answer, dict)]
    if silent:
        seen = f"; another: {failures[0].kind}: {failures[0].message}" if failures else ""
        return Result("hang", f"no answer from rank {silent[0]}{seen}")
    if failures:
        return _failed(failures, len(answers))
    for rank, (got, want) in enumerate(zip(answers, records, strict=True)):
        difference = _difference(got, want, first, TOLERANCES[program.precision])
        if difference:
            return Result("different", f"rank {rank}: {difference}")
    return Result("same")


def _failed(failures: list[Any], world: int) -> Result:
    kinds = {_refusal(failure.message) for failure in failures}
    if None not in kinds and len(failures) == world:
        return Result("refused", ", ".join(sorted(kinds)))
    worst = next((failure for failure in failures if _refusal(failure.message) is None), failures[0])
    some = "" if len(failures) == world else f" (on {len(failures)} of {world} ranks)"
    return Result("crash", f"{worst.kind}{some}: {worst.message}\n{worst.trace}")


def _refusal(message: str) -> str | None:
    return next((name for name, pattern in REFUSALS.items() if re.search(pattern, message)), None)


def _difference(got: dict, want: dict, first: dict, tolerance: Tolerance) -> str | None:
    """The first tensor that differs, in the order in which the script saw them."""
    if got.keys() != want.keys():
        return f"one side has {sorted(got.keys() ^ want.keys())}"
    sizes: dict[str, float] = {}
    for name, value in want.items():
        kind = name.split()[0]
        sizes[kind] = max(sizes.get(kind, 0.0), _largest(_change(name, value, first)))
    for name, value in want.items():
        allowed = tolerance.own * _largest(_change(name, value, first)) + tolerance.shared * sizes[name.split()[0]]
        allowed += 1e-6
        off = _largest(got[name] - value)
        if not off <= allowed:
            return f"{name} is off by {off:.2g} (allowed {allowed:.2g})"
    return None


def _change(name: str, value: np.ndarray, first: dict) -> np.ndarray:
    """Of a weight how far training has moved it: its size would hide a gradient that is missing."""
    return value - first[name.removeprefix("weight ")] if name.startswith("weight ") else value


def _largest(value: np.ndarray) -> float:
    return float(np.abs(value).max()) if value.size else 0.0
