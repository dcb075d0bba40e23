"""What came out of a program: one of six outcomes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.fuzz.program import Program

REFUSALS = {
    "ranks that part": r"The ranks run different modules: rank \d+ needs the weights of '.*', rank \d+ those of '.*'",
    "a pass whose end cannot be seen": r"loss.backward\(\) met this model inside a reentrant checkpoint first",
    "a pass that nothing announces": r"of a loss.backward\(\) that could not be followed",
    "weights updated since": r"have been updated since the forward pass whose backward pass needs them",
    "units inside one another": r"need whole weights at the same time, but share memory for them",
    "a deep copy": r"copy the model inside `with engine.gathered\(\):`",
    "a weight whose use backward does not show": r"If the tensor is a weight: backward came to it in a way that could",
    "inside a reentrant checkpoint and outside": r"It is used inside a reentrant checkpoint and outside of it",
}
"""Errors that are an answer, by what they refuse. Each says what to do instead."""
PYTORCHS = {"a weight whose use backward does not show, told by PyTorch": r"modified by an inplace operation"}
"""The same where the script itself calls autograd, so that nobody adds to the error: what it is about, and no more."""
CALLS_AUTOGRAD = frozenset({"plain_backward", "gradient_penalty"})

FINE = frozenset({"same", "refused", "invalid"})


@dataclass(frozen=True)
class Result:
    """An outcome, and what it rests on in a line or two."""

    outcome: str
    reason: str = ""
    nearness: float = 0.0  # of the number nearest to its tolerance, as a part of that

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


# [Note: tolerances] Both sides run the same kernels. In fp32 they add gradients of ranks and micro-batches up in
# another order, and the update multiplies in another order: a few units in the last place (1e-7) of the largest term,
# found to reach 1e-6 of a change in four steps. A gradient that is nothing but rounding (a bias of keys in attention)
# moves a weight by lr / eps = 10 times its 1e-7 in each step of AdamW, hence ROUNDING. In bf16 a master weight that
# differs in its last bit may round to another bf16 weight, 4e-3 apart, which moves the gradients of all; in
# fp16 an eighth of it or so. A wrong gradient (of other weights, missing, counted twice, of one rank alone) is off by
# about its own size.
TOLERANCES = {"fp32": Tolerance(1e-4, 2e-5), "fp16": Tolerance(0.06, 0.002), "bf16": Tolerance(0.2, 0.003)}
ROUNDING = 5e-6


def invalid(wanted: Any) -> Result | None:
    """The outcome of a program that PyTorch does not run; `wanted` is (first weights, record of each rank) where it
    does."""
    if wanted is None:
        return Result("invalid", "PyTorch gave no answer in time")
    if not isinstance(wanted, tuple):
        return Result("invalid", f"{wanted.kind}: {wanted.message}")
    numbers = (value for record in wanted[1] for value in record.values())
    return (
        None if all(np.isfinite(value).all() for value in numbers) else Result("invalid", "values that are not finite")
    )


def judge(program: Program, wanted: Any, answers: list[Any]) -> Result:
    """Compare what PyTorch gave with each rank's answer: its record, a Failure, or None."""
    first, records = wanted
    silent = [rank for rank, answer in enumerate(answers) if answer is None]
    failures = [answer for answer in answers if answer is not None and not isinstance(answer, dict)]
    refusals = REFUSALS | (PYTORCHS if program.extras & CALLS_AUTOGRAD else {})
    if silent and not (failures and all(_refusal(failure.message, refusals) for failure in failures)):
        seen = f"; another: {failures[0].kind}: {failures[0].message}" if failures else ""
        return Result("hang", f"no answer from rank {silent[0]}{seen}")
    if failures:
        return _failed(failures, answers, refusals)
    tolerance = TOLERANCES["bf16" if "autocast" in program.extras else program.precision]
    nearness = 0.0
    for rank, (got, want) in enumerate(zip(answers, records, strict=True)):
        difference, found = _difference(got, want, first, tolerance)
        if difference:
            return Result("different", f"rank {rank}: {difference}")
        nearness = max(nearness, found)
    return Result("same", nearness=nearness)


def _failed(failures: list[Any], answers: list[Any], refusals: dict[str, str]) -> Result:
    """An error that is an answer may leave other ranks waiting, which their launcher ends."""
    kinds = {_refusal(failure.message, refusals) for failure in failures}
    if None not in kinds and len(failures) + answers.count(None) == len(answers):
        return Result("refused", ", ".join(sorted(kinds)))
    worst = next((failure for failure in failures if _refusal(failure.message, refusals) is None), failures[0])
    some = "" if len(failures) == len(answers) else f" (on {len(failures)} of {len(answers)} ranks)"
    return Result("crash", f"{worst.kind}{some}: {worst.message}\n{worst.trace}")


def _refusal(message: str, refusals: dict[str, str]) -> str | None:
    return next((name for name, pattern in refusals.items() if re.search(pattern, message)), None)


def _difference(got: dict, want: dict, first: dict, tolerance: Tolerance) -> tuple[str, float]:
    """The first tensor that differs, in the order in which the script saw them, or the nearness of all."""
    if got.keys() != want.keys():
        return f"one side has {sorted(got.keys() ^ want.keys())}", 0.0
    sizes: dict[str, float] = {}
    for name, value in want.items():
        kind = name.split()[0]
        sizes[kind] = max(sizes.get(kind, 0.0), _largest(_change(name, value, first)))
    nearness = 0.0
    for name, value in want.items():
        if got[name].shape != value.shape:
            return f"{name} has the shape {got[name].shape} (expected {value.shape})", 0.0
        own = _largest(_change(name, value, first))
        allowed = tolerance.own * own + tolerance.shared * sizes[name.split()[0]] + ROUNDING
        off = _largest(got[name] - value)
        if not off <= allowed:
            return f"{name} is off by {off:.2g} (allowed {allowed:.2g})", 0.0
        nearness = max(nearness, off / allowed)
    return "", nearness


def _change(name: str, value: np.ndarray, first: dict) -> np.ndarray:
    """Of a weight how far training has moved it: its size would hide a gradient that is missing."""
    return value - first[name.removeprefix("weight ")] if name.startswith("weight ") else value


def _largest(value: np.ndarray) -> float:
    return float(np.abs(value).max()) if value.size else 0.0
