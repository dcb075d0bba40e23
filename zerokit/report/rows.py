"""The table of a sweep, as texts: for the page and for report.md."""

from __future__ import annotations

from collections.abc import Sequence

from zerokit.record.metrics import format_bytes, format_count, loss_column, printable, shared_unit
from zerokit.report.cells import Cell, Sweep
from zerokit.report.compare import frontier, parities, ratio, told

TEXTS = ("cell", "state")
"""Columns that are no figures."""


def columns(sweep: Sweep) -> tuple[str, ...]:
    """The headings of the table."""
    known = ("speed", "memory", "of baseline", "predicted", "error", "frontier")
    loss, _ = loss_column(cell.loss for cell in sweep.cells)
    held_out = ("held out",) if any(cell.held_out for cell in sweep.cells) else ()
    return ("#", "cell", "state", loss, *held_out, f"{sweep.counted}/s", *known)


def remarks(sweep: Sweep, baseline: Cell | None) -> list[str]:
    """Return sentences without which the table cannot be read."""
    told = [f"★ marks the frontier: no other cell has both more {sweep.counted}/s and less memory."]
    if baseline is not None:
        told.append(f"Speed and memory are relative to {baseline.label}.")
    if any(cell.on_cpu and cell.peak for cell in sweep.cells):
        told.append(
            "On a CPU, memory is that of the model's states; the page of a cell says what its processes grew by."
        )
    if any(cell.predicted and cell.peak for cell in sweep.finished()):
        told.append("The error is how far the predicted memory lies above (+) or below (-) the measured one.")
    if sweep.left_out:
        told.append(f"Older runs of this folder that are left out: {sweep.left_out}.")
    told += [f"{cell.label} chose {cell.chosen}" for cell in sweep.cells if cell.chosen]
    return told


def rows(sweep: Sweep, baseline: Cell | None) -> list[list[str]]:
    """Return the cells of the table, row by row; what is not known is empty."""
    best = frontier(sweep.cells)
    _, losses = loss_column(cell.loss for cell in sweep.cells)
    _, others = loss_column(cell.held_out for cell in sweep.cells)
    shown = (
        [[loss, other] for loss, other in zip(losses, others, strict=True)] if any(others) else [[x] for x in losses]
    )
    unit = shared_unit(size for cell in sweep.cells for size in (cell.peak, cell.predicted))
    return [_row(cell, known, unit, baseline, cell in best) for cell, known in zip(sweep.cells, shown, strict=True)]


def _row(cell: Cell, losses: Sequence[str], unit: str, baseline: Cell | None, best: bool) -> list[str]:
    compared = baseline is not None and cell.status == "finished"
    speed = ratio(cell.speed, baseline.speed) if compared else None
    memory = ratio(cell.peak, baseline.peak) if compared else None
    error = ratio(cell.predicted, cell.peak) if cell.comparable else None
    return [
        str(cell.number),
        cell.label,
        cell.status,
        *losses,
        format_count(cell.speed) if cell.speed else "",
        _times(speed),
        format_bytes(cell.peak, unit) if cell.peak else "",
        _times(memory),
        format_bytes(cell.predicted, unit) if cell.predicted else "",
        f"{(error - 1) * 100:+.1f} %" if error and cell.status == "finished" else "",
        "★" if best else "",
    ]


def _times(value: float | None) -> str:
    if not value:
        return ""
    return f"{value:.2f}×" if value >= 0.1 else f"{value:.2g}×"


def markdown(sweep: Sweep, baseline: Cell | None) -> str:
    """Return the comparison as Markdown: the table, the parity check, failures, and the commands."""
    lines = [f"# {_cell(sweep.directory.name)}", ""]
    if sweep.command:
        lines += [f"    {' '.join(printable(sweep.command).split())}", ""]
    head = columns(sweep)
    lines += [
        f"| {' | '.join(map(_cell, head))} |",
        f"|{''.join('---|' if name in TEXTS else '---:|' for name in head)}",
    ]
    lines += [f"| {' | '.join(_cell(text) for text in row)} |" for row in rows(sweep, baseline)]
    lines += ["", *(_cell(remark) for remark in remarks(sweep, baseline))]
    lines += ["", *(f"- {_cell(line)}" for line in sweep.conclusions)] if sweep.conclusions else []
    checks = [f"- {_cell(told(parity))}" for parity in parities(sweep)]
    lines += ["", "## Do the stages agree?", "", *(checks or ["No two finished cells compute the same thing."])]
    failed = [f"- {_cell(cell.label)} ({cell.status}): {_cell(cell.reason)}" for cell in sweep.cells if cell.reason]
    lines += ["", "## Not finished", "", *failed] if failed else []
    lines += ["", "## Commands", ""]
    for cell in sweep.cells:
        lines += [f"- {_cell(cell.label)}", "", f"      {' '.join(printable(cell.command).split())}", ""]
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    """Return text that stays within its cell and is no Markdown or HTML."""
    flat = " ".join(printable(text).split())
    for sign in "\\`*_[]<>|&":
        flat = flat.replace(sign, f"\\{sign}")
    return flat
