"""The table of all cells of a sweep: live on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import rich.console
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from zerokit.record.console import message, never_fail_on_characters
from zerokit.record.metrics import format_bytes, format_count, format_seconds, loss_column, printable, shared_unit
from zerokit.record.panel import near
from zerokit.sweep.cell import Cell, Figures, State

STYLES = {
    State.WAITING: "dim",
    State.RUNNING: "bold cyan",
    State.FINISHED: "green",
    State.FAILED: "bold red",
    State.INTERRUPTED: "yellow",
    State.TOO_LARGE: "yellow",
}
BAR = 8
WIDTH = 80
PLAIN_S = 30.0
"""Seconds between two lines on the progress of a cell where the output is no terminal."""


class SweepTable:
    """What a person sees of a sweep.

    Args:
        folder: of the sweep.
        file: where to write; by default standard output.
    """

    def __init__(self, folder: Path, file: TextIO | None = None) -> None:
        file = file or sys.stdout
        never_fail_on_characters(file)
        self._console = rich.console.Console(file=file, highlight=False)
        if not self._console.is_terminal:
            self._console = rich.console.Console(file=file, highlight=False, width=WIDTH)
        self._folder = folder
        self._cells: list[Cell] = []
        self._live: Live | None = None
        self._began = time.monotonic()
        self._said: dict[int, float] = {}

    def __enter__(self) -> SweepTable:
        if self._console.is_terminal:
            # No refreshing thread: this process forks.
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, cells: list[Cell]) -> None:
        """Show how the cells are doing."""
        self._cells = cells
        if self._live is not None:
            rows = self._console.height - 8
            self._live.update(
                Group(self._heading(), table(window(cells, rows), self._console.width, True)), refresh=True
            )
            return
        for cell in cells:
            if cell.state is State.RUNNING and time.monotonic() - self._said.get(id(cell), 0) > PLAIN_S:
                self._line(cell, progress(cell, cell.figures()))

    def asking(self, cell: Cell) -> None:
        """What a cell would need is being predicted, before it is decided whether there will be one."""
        if self._live is not None:
            self._live.update(Text(f"predicting {printable(cell.label)}", style="dim"), refresh=True)

    def started(self, cell: Cell, half_done: bool = False) -> None:
        """A cell has been started, or goes on from saved state."""
        if self._live is None:
            self._line(cell, "goes on from its saved state" if half_done else "started")

    def ended(self, cell: Cell) -> None:
        """A cell has ended."""
        if self._live is None:
            self._line(cell, told(cell))

    def note(self, text: str) -> None:
        """Write one line above the table."""
        message(self._console, Text(printable(text)))

    def finish(self, cells: list[Cell], report: Path | None, conclusions: Sequence[str] = ()) -> None:
        """Show the whole table, why cells did not finish, what is concluded, and where the report is (there is none of
        a dry run)."""
        self._cells = cells
        self._console.print(self._heading())
        self._console.print(table(cells, self._console.width))
        if any(cell.earlier for cell in cells):
            self._console.print(Text("* finished before this command", style="dim"))
        for cell in cells:
            if cell.reason:
                first = (cell.reason.strip().splitlines() or [""])[0]
                text = Text.assemble((f"{cell.label}: ", STYLES[cell.state]), printable(first))
                message(self._console, text)
                if cell.state is State.FAILED and (cell.folder / "logs").is_dir():
                    message(self._console, Text(f"  {near(cell.folder)}/logs", style="dim"))
        if not conclusions and any(cell.state is State.TOO_LARGE for cell in cells):
            self._console.print("sweep.force=true runs what is too large all the same.")
        for line in conclusions:
            message(self._console, Text(printable(line), style="bold"))
        if report is None:
            return
        if any(not cell.state.over or cell.state in (State.FAILED, State.INTERRUPTED) for cell in cells):
            self._console.print("The same command runs what is missing; finished cells are skipped.")
        message(self._console, Text(f"report: {near(report)}"))

    def _heading(self) -> Text:
        order = (State.RUNNING, State.WAITING, State.FINISHED, State.FAILED, State.INTERRUPTED, State.TOO_LARGE)
        counts = [(sum(cell.state is state for cell in self._cells), state) for state in order]
        cells = "1 cell" if len(self._cells) == 1 else f"{len(self._cells)} cells"
        where = Text.assemble((cells, "bold"), f" in {near(self._folder)}/", overflow="fold")
        facts = [Text(f"{count} {state.value}", style=STYLES[state]) for count, state in counts if count]
        facts.append(Text(format_seconds(time.monotonic() - self._began), style="dim"))
        how = Text(" · ").join(facts)
        gap = " · " if len(where) + len(how) + 3 <= self._console.width else "\n"
        return Text.assemble(where, gap, how)

    def _line(self, cell: Cell, text: str) -> None:
        self._said[id(cell)] = time.monotonic()
        place = self._place(cell)
        message(self._console, Text(f"{place} {cell.label}: {text}"))

    def _place(self, cell: Cell) -> str:
        known = [id(other) for other in self._cells]
        return f"[{known.index(id(cell)) + 1}/{len(known)}]" if id(cell) in known else "[+]"


def window(cells: list[Cell], rows: int) -> list[Cell]:
    """Return the cells that fit into so many rows: those that run or failed first, in the order of the sweep."""
    if len(cells) <= rows:
        return cells
    order = (State.RUNNING, State.FAILED, State.INTERRUPTED, State.WAITING, State.FINISHED, State.TOO_LARGE)
    chosen = sorted(cells, key=lambda cell: order.index(cell.state))[: max(rows, 1)]
    return [cell for cell in cells if any(cell is other for other in chosen)]


def table(cells: list[Cell], width: int, one_line: bool = False) -> Table:
    """Return the table of the cells, without the figures that none of them has; narrow enough for 80 columns.

    one_line: cut long names of cells instead of wrapping them.
    """
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    figures = [cell.figures() for cell in cells]
    kinds = {cell.counted for cell, known in zip(cells, figures, strict=True) if known.tokens_per_sec is not None}
    loss, losses = loss_column(each.loss for each in figures)
    size = shared_unit(
        size for cell, known in zip(cells, figures, strict=True) for size in (known.memory, cell.predicted)
    )
    predicted = any(cell.predicted for cell in cells)
    bar = BAR if width >= 100 or not predicted else 0
    columns: dict[str, list[Text | str]] = {
        "steps": [_steps(cell, known, bar) for cell, known in zip(cells, figures, strict=True)],
        loss: losses,
        f"{kinds.pop() if len(kinds) == 1 else 'units'}/s": [
            _text(known.tokens_per_sec, format_count) for known in figures
        ],
        "memory": [_text(known.memory, format_bytes, size) for known in figures],
        "predicted": [_text(cell.predicted, format_bytes, size) for cell in cells],
    }
    shown = {heading: texts for heading, texts in columns.items() if any(texts)}
    grid.add_column("cell")
    grid.add_column("state", no_wrap=True)
    for heading in shown:
        grid.add_column(heading, no_wrap=True, justify="right")
    for cell, *texts in zip(cells, *shown.values(), strict=True):
        name = Text(printable(cell.label), no_wrap=one_line, overflow="ellipsis" if one_line else "fold")
        grid.add_row(name, _state(cell), *texts, style="dim" if cell.state is State.WAITING else "")
    return grid


def _state(cell: Cell) -> Text:
    state = Text(cell.state.value, style=STYLES[cell.state])
    return state.append(" *", style="dim") if cell.earlier else state


def _text(value: float | None, formatted: Callable[..., str], *options: str) -> str:
    return "" if value is None else formatted(value, *options)


def _steps(cell: Cell, figures: Figures, bar: int) -> Text | str:
    if cell.state in (State.WAITING, State.TOO_LARGE) or not cell.steps:
        return ""
    counted = f"{figures.step}/{cell.steps}"
    if cell.state is not State.RUNNING:
        return counted
    done = round(bar * min(1.0, figures.step / cell.steps))
    return Text.assemble(("━" * done, "cyan"), ("━" * (bar - done), "bright_black"), f" {counted}" if bar else counted)


def progress(cell: Cell, figures: Figures) -> str:
    """Return how far a cell is, in words."""
    parts = [f"step {figures.step}/{cell.steps}"]
    if figures.loss is not None:
        parts.append(str(figures.loss))
    if figures.tokens_per_sec is not None:
        parts.append(f"{format_count(figures.tokens_per_sec)} {cell.counted}/s")
    if figures.memory is not None:
        parts.append(format_bytes(figures.memory))
    return ", ".join(parts)


def told(cell: Cell) -> str:
    """Return how a cell ended, in words."""
    if cell.reason:
        return f"{cell.state.value}: {printable(cell.reason.strip().splitlines()[0])}"
    return f"{cell.state.value}, {progress(cell, cell.figures())}"
