"""What a person sees: a live progress line (plain lines when the output is no terminal) and a panel at the end."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import rich.console
from rich.cells import cell_len
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from zerokit.config.terminal import printable
from zerokit.record.metrics import GIB, format_bytes, format_count, format_seconds
from zerokit.record.panel import final_panel, save_svg

REFRESH_SECONDS = 0.2
SVG_VARIABLE = "ZEROKIT_SVG"
SVG_LINES = 6
MAX_WIDTH = 100


class Console:
    """Rank 0's view of a run on a terminal or in a file.

    With the environment variable ZEROKIT_SVG=PATH, a picture of some progress lines and the final panel is written to
    PATH at the end.

    Args:
        steps: optimizer steps of the whole run.
        unit: what the loss counts where bits per byte are unknown: "nats", "mse" or "".
        file: where to write; by default standard output.
    """

    def __init__(self, steps: int, unit: str = "", file: TextIO | None = None) -> None:
        self._steps = steps
        self.unit, self.counted = unit, "tokens"
        file = file or sys.stdout
        never_fail_on_characters(file)
        self._console = _Terminal(file=file, highlight=False, soft_wrap=False)
        self._live: Live | None = None
        self._shown = 0.0
        self._clock: tuple[float, int] | None = None
        self._seconds_per_step: float | None = None
        self._metrics: dict[str, float] = {}
        self._pictured: list[Table] = []

    @property
    def is_terminal(self) -> bool:
        """Whether the progress line is live."""
        return self._console.is_terminal

    def note(self, text: str) -> None:
        """Write one line above the progress line; the text is shown as it is, without markup."""
        message(self._console, Text(printable(text)))

    def progress(self, step: int, metrics: dict[str, float] | None = None) -> None:
        """Report that `step` steps are done, each step or less often, with metrics where they were just logged.

        On a terminal the live line moves; elsewhere each call with metrics writes one line.
        """
        self._time(step)
        if metrics:
            self._metrics |= metrics
            self._picture(step)
        if self.is_terminal:
            self._show(step, force=bool(metrics))
        elif metrics:
            message(self._console, Text(self._text(step)))

    def finish(self, summary: dict[str, Any], directory: Path) -> None:
        """End the progress line and show the summary of the run that was written to `directory`."""
        self.close()
        panel = final_panel(summary, directory, self.unit)
        self._console.print(panel, width=min(self._console.width, MAX_WIDTH))
        if os.environ.get(SVG_VARIABLE):
            command = str(summary.get("command") or "python -m zerokit")
            save_svg(Path(os.environ[SVG_VARIABLE]), command, list(self._pictured), panel)

    def close(self) -> None:
        """End the progress line; may be called again."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def handler(self, level: int = logging.WARNING) -> logging.Handler:
        """Return a logging handler that writes messages of `level` and above as notes."""
        return _NoteHandler(self, level)

    def _time(self, step: int) -> None:
        now = time.monotonic()
        if self._clock is None:
            self._clock = (now, step)
        since, first = self._clock
        if step > first:
            # The mean of the whole run is steady; the first step, with its warm-up, is not part of it.
            self._seconds_per_step = (now - since) / (step - first)

    def _picture(self, step: int) -> None:
        """Keep progress lines for the picture, evenly over the run."""
        if step * SVG_LINES >= len(self._pictured) * self._steps:
            self._pictured.append(self._bar(step))

    def _show(self, step: int, force: bool) -> None:
        now = time.monotonic()
        if not force and step < self._steps and now - self._shown < REFRESH_SECONDS:
            return
        self._shown = now
        if self._live is None:
            # No refreshing thread: it would take time from the workers, which fill the cores.
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._live.start()
        self._live.update(self._bar(step), refresh=True)

    def _bar(self, step: int) -> Table:
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        figures = self._figures(step)
        for place in range(len(figures)):
            grid.add_column(no_wrap=True, justify="right", min_width=14 if place == len(figures) - 1 else None)
        bar = ProgressBar(total=self._steps, completed=step, complete_style="cyan", finished_style="green")
        cells = [Text(figure) for figure in figures]
        grid.add_row(Text(_counter(step, self._steps), style="bold"), bar, *cells)
        return grid

    def _text(self, step: int) -> str:
        return "  ".join([f"step {_counter(step, self._steps)}", *self._figures(step)])

    def _figures(self, step: int) -> list[str]:
        """Return loss, throughput, memory and time left, as far as they are known."""
        metrics = self._metrics
        figures = []
        if "train/bits_per_byte" in metrics:
            figures.append(f"{metrics['train/bits_per_byte']:.3f} bits/byte")
        elif "train/loss" in metrics:
            figures.append(f"{metrics['train/loss']:.4g} {self.unit or 'loss'}")
        if "perf/tokens_per_sec" in metrics:
            figures.append(f"{format_count(metrics['perf/tokens_per_sec'])} {self.counted}/s")
        if "memory/max_allocated_gib" in metrics:
            figures.append(format_bytes(metrics["memory/max_allocated_gib"] * GIB))
        if step >= self._steps:
            figures.append("done")
        elif self._seconds_per_step is not None:
            figures.append(f"{format_seconds((self._steps - step) * self._seconds_per_step)} left")
        return figures


def message(console: rich.console.Console, text: Text) -> None:
    """Print a message as `zerokit.config.terminal.say` does: wrapped between words on a terminal, else as it is."""
    for line in text.split(allow_blank=True):
        for part in line.divide(_breaks(line.plain, console.width)) if console.is_terminal else [line]:
            part.rstrip()
            console.print(part, soft_wrap=True)


def _breaks(line: str, width: int) -> list[int]:
    """Where words begin that have no room beside those before them; rich itself would break long paths."""
    places, column = [], 0
    for word in re.finditer(r"\s*\S+", line):
        blank = len(word[0]) - len(word[0].lstrip())
        if column and column + cell_len(word[0]) > width:
            places.append(word.start() + blank)
            column = -blank
        column += cell_len(word[0])
    return places


class _Terminal(rich.console.Console):
    """A reader that goes away, as in `zerokit | head`, ends what is shown and not the training."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())


class _NoteHandler(logging.Handler):
    def __init__(self, console: Console, level: int) -> None:
        super().__init__(level)
        self._target = console

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # a message never ends what it is about
            self._target.note(f"{record.levelname.lower()}: {record.getMessage()}")


def _counter(step: int, steps: int) -> str:
    return f"{step:>{len(str(steps))}}/{steps}"


def never_fail_on_characters(file: TextIO) -> None:
    """Let an output that is not UTF-8 show `?` for what it cannot, instead of raising UnicodeEncodeError."""
    encoding = (getattr(file, "encoding", None) or "utf-8").lower().replace("-", "")
    if encoding != "utf8" and hasattr(file, "reconfigure"):
        file.reconfigure(errors="replace")
