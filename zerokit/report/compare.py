"""Comparing the cells of a sweep: the frontier, ratios to a baseline, and whether the stages agree."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from zerokit.config.identity import VIEWS
from zerokit.report.cells import Cell, Sweep

SAME_RESULT = ("zero", "checkpointing")
"""Sections that must not change what a run computes, beyond the order of its sums."""


def frontier(cells: list[Cell]) -> list[Cell]:
    """Return the finished cells that no other one beats: none has both more tokens/s and less memory.

    Of two cells with the same figures both are on it. By rising memory.
    """
    known = [cell for cell in cells if cell.status == "finished" and cell.speed and cell.peak]
    best = [cell for cell in known if not any(_beats(other, cell) for other in known)]
    return sorted(best, key=lambda cell: (cell.peak, cell.speed))


def _beats(one: Cell, other: Cell) -> bool:
    at_least = one.speed >= other.speed and one.peak <= other.peak
    return at_least and (one.speed, one.peak) != (other.speed, other.peak)


def ratio(value: float | None, base: float | None) -> float | None:
    """Return `value / base`, or None where one is unknown."""
    return value / base if value and base else None


@dataclass(frozen=True)
class Parity:
    """Cells that ought to compute the same, and how nearly they do."""

    cells: list[Cell]
    """The first of them is what the others are compared with."""
    identical: bool
    """Whether the final weights of all are the same, bit for bit."""
    loss_gap: float
    """Largest relative difference of a logged training loss from that of the first; NaN if none is comparable."""
    step: float
    """The step of that difference."""
    widest: Cell | None
    """The cell of that difference."""


def parities(sweep: Sweep) -> list[Parity]:
    """Return a comparison for each set of finished cells that differ only in how the state is divided or recomputed."""
    groups: dict[str, list[Cell]] = {}
    for cell in sweep.finished():
        if cell.sha256 and cell.run and cell.run.config:
            groups.setdefault(_what_is_computed(cell), []).append(cell)
    return [_parity(cells) for cells in groups.values() if len(cells) > 1]


def _what_is_computed(cell: Cell) -> str:
    kept = {key: value for key, value in cell.run.config.items() if key not in (*SAME_RESULT, *VIEWS)}
    batch = {key: cell.run.section("predicted").get(key) for key in ("micro", "accumulation")}
    if None not in batch.values():  # what any sufficient part of the batch came to, on as many ranks
        kept["batch"] = batch
    return json.dumps([kept, cell.world, cell.run.summary.get("data_sha256")], sort_keys=True, default=str)


def _parity(cells: list[Cell]) -> Parity:
    first = dict(cells[0].run.series("train/loss"))
    gap, step, widest = math.nan, math.nan, None
    for cell in cells[1:]:
        for at, loss in cell.run.series("train/loss"):
            if at in first and math.isfinite(first[at]) and math.isfinite(loss):
                difference = abs(loss - first[at]) / max(abs(first[at]), 1e-12)
                if not gap >= difference:
                    gap, step, widest = difference, at, cell
    return Parity(cells, len({cell.sha256 for cell in cells}) == 1, gap, step, widest)


def told(parity: Parity) -> str:
    """Return a comparison in words."""
    names = ", ".join(cell.label for cell in parity.cells)
    if parity.identical:
        return f"{names}: the final weights are the same, bit for bit."
    if math.isnan(parity.loss_gap):
        return f"{names}: the final weights differ, and no logged loss can be compared.{_threads(parity.cells)}"
    gap = (
        "no logged loss differs"
        if parity.loss_gap == 0
        else f"the largest relative difference of a logged loss is {parity.loss_gap:.2g}"
    )
    where = f" ({parity.widest.label}, step {parity.step:g})" if parity.loss_gap else ""
    return f"{names}: the final weights are not bit-identical; {gap}{where}.{_threads(parity.cells)}"


def _threads(cells: list[Cell]) -> str:
    """Say that cells on the CPU had different numbers of threads, by which its kernels divide sums; else nothing."""
    known = {cell.label: cell.run.summary.get("threads") for cell in cells if cell.on_cpu}
    counts = {label: ", ".join(map(str, threads)) for label, threads in known.items() if isinstance(threads, list)}
    if len(set(counts.values())) < 2:
        return ""
    shown = "; ".join(f"{label}: {threads}" for label, threads in counts.items())
    return f" Ranks had different numbers of CPU threads ({shown}), which change sums: set launch.threads."
