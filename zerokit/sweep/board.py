"""The table of all cells of a sweep: live on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import rich.console
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from zerokit.sweep.cell import Cell, Figures, State
from zerokit.train.console import message, never_fail_on_characters
from zerokit.train.metrics import format_bytes, format_count, format_seconds, loss_column, printable, shared_unit
from zerokit.train.panel import near

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
LABEL = 18
PLAIN_S = 30.0
"""Seconds between two lines on the progress of a cell where the output is no terminal."""


class Board:
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

    def __enter__(self) -> Board:
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
            self._live.update(Group(self._heading(), table(window(cells, rows), self._console.width)), refresh=True)
            return
        for cell in cells:
            if cell.state is State.RUNNING and time.monotonic() - self._said.get(id(cell), 0) > PLAIN_S:
                self._line(cell, progress(cell, cell.figures()))

    def asking(self, cell: Cell) -> None:
        """What a cell would need is being predicted, before it is decided whether there will be one."""
        if self._live is not None:
            self._live.update(Text(f"predicting {printable(cell.label)}", style="dim"), refresh=True)

    def started(self, cell: Cell) -> None:
        """A cell has been started."""
        if self._live is None:
            self._line(cell, "started")

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
        for line in conclusions:
            message(self._console, Text(printable(line), style="bold"))
        if report is None:
            return
        if any(not cell.state.over or cell.state in (State.FAILED, State.INTERRUPTED) for cell in cells):
            self._console.print("The same command runs what is missing; finished cells are skipped.")
        message(self._console, Text(f"report: {near(report)}"))

    def _heading(self) -> Text:
        counts = [
            (sum(cell.state is state for cell in self._cells), state)
            for state in (
                State.RUNNING,
                State.WAITING,
                State.FINISHED,
                State.FAILED,
                State.INTERRUPTED,
                State.TOO_LARGE,
            )
        ]
        cells = "1 cell" if len(self._cells) == 1 else f"{len(self._cells)} cells"
        text = Text.assemble((cells, "bold"), f" in {near(self._folder)}/", overflow="fold")
        for count, state in counts:
            if count:
                text.append(f" · {count} {state.value}", style=STYLES[state])
        return text.append(f" · {format_seconds(time.monotonic() - self._began)}", style="dim")

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


def table(cells: list[Cell], width: int) -> Table:
    """Return the table of the cells; narrow enough for 80 columns."""
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    grid.add_column("cell", no_wrap=True, overflow="ellipsis", max_width=max(LABEL, width - 62))
    grid.add_column("state", no_wrap=True)
    kinds = {cell.counted for cell in cells}
    figures = [cell.figures() for cell in cells]
    unit, losses = loss_column(each.loss for each in figures)
    for heading in ("steps", unit, f"{kinds.pop() if len(kinds) == 1 else 'units'}/s", "memory"):
        grid.add_column(heading, no_wrap=True, justify="right")
    predicted = any(cell.predicted_gib is not None for cell in cells)
    if predicted:
        grid.add_column("predicted", no_wrap=True, justify="right")
    bar = BAR if width >= 100 or not predicted else 0
    size = shared_unit(
        size for cell, known in zip(cells, figures, strict=True) for size in (known.memory, cell.predicted)
    )
    for cell, known, loss in zip(cells, figures, losses, strict=True):
        grid.add_row(*_row(cell, known, loss, size, predicted, bar), style="dim" if cell.state is State.WAITING else "")
    return grid


def _row(cell: Cell, figures: Figures, loss: str, unit: str, predicted: bool, bar: int) -> list[Text | str]:
    state = Text(cell.state.value, style=STYLES[cell.state])
    if cell.earlier:
        state.append(" *", style="dim")
    row: list[Text | str] = [
        Text(printable(cell.label)),
        state,
        _steps(cell, figures, bar),
        loss,
        "" if figures.tokens_per_sec is None else format_count(figures.tokens_per_sec),
        "" if figures.memory is None else format_bytes(figures.memory, unit),
    ]
    return row + ([format_bytes(cell.predicted, unit) if cell.predicted else ""] if predicted else [])


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
