"""metrics.jsonl, the truth about a run, and figures in the form that people read."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from zerokit.config.errors import naming
from zerokit.config.files import replace_text
from zerokit.config.parse import as_number, finite
from zerokit.config.suspect import parse_json, read_text
from zerokit.config.terminal import printable

log = logging.getLogger(__name__)

GIB = 1 << 30
BYTES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
BITS = "bits/byte"
"""Unit of the loss where tokens are bytes."""
MOST_BYTES = 1 << 30
"""A file of metrics above this length is left out."""
NAMED = 5
"""Lines of one file that cannot be read and are named."""
TAIL = 8192
"""Bytes at the end of a metrics file that hold its last lines."""


class MetricsFile:
    """Appends one JSON object per line: `trainer/step`, then the metrics of that step.

    Each line is handed to the operating system at once, so it outlives a crash of the process. NaN and the infinities
    are written as the texts "NaN", "Infinity" and "-Infinity", which `read_metrics` turns back into floats.

    after: lines of later steps, from a run that goes on from this step, are removed; None keeps all.
    """

    def __init__(self, path: str | Path, after: int | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_cut_line(self.path)
        if after is not None and self.path.exists():
            _drop_later(self.path, after)
        self._file = open(self.path, "a", encoding="utf-8", opener=_opener)  # noqa: SIM115

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Write the metrics of one step (counted in optimizer steps)."""
        row = {"trainer/step": step, **{name: _encode(value) for name, value in metrics.items()}}
        with naming(self.path):
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; may be called again."""
        self._file.close()

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opener(path: str, flags: int) -> int:
    """Open a file, but not through a link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o644)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file, in the order of writing; an absent file has none.

    A last line that was cut is left out; other unreadable lines, or the whole file, are left out with a warning.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        lines = read_text(path, MOST_BYTES).split("\n")
    except (OSError, ValueError) as error:
        log.warning("%s was left out: %s", printable(str(path)), getattr(error, "strerror", None) or error)
        return []
    rows, unread = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            unread.append(number)
    for number in unread[:NAMED]:
        log.warning("%s:%d is no JSON object and was left out.", printable(str(path)), number)
    if len(unread) > NAMED:
        log.warning("%s: so were %d other lines.", printable(str(path)), len(unread) - NAMED)
    return rows


def _row(line: str) -> dict[str, Any] | None:
    """A line's mapping; None if it is not one."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return {name: _decode(value) for name, value in row.items()} if isinstance(row, dict) else None


def last_metrics(path: str | Path) -> dict[str, Any]:
    """Return the last value of each metric in the last lines of a metrics file; cheap, also while a run writes it."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return {}
    values: dict[str, Any] = {}
    for line in lines:
        values |= _row(line) or {}
    return values


def _encode(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    value = float(value)
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decode(value: Any) -> Any:
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _drop_cut_line(path: Path) -> None:
    """Cut a file that a crash left without a final line break back to its last whole line."""
    if not path.exists() or path.stat().st_size == 0:
        return
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def _drop_later(path: Path, step: int) -> None:
    """Keep the lines up to a step, in one move."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        row = _row(line)
        if row is not None and (finite(row.get("trainer/step", 0)) or 0) <= step:
            kept.append(line)
    replace_text(path, "".join(kept))


def bits_per_byte(nats_per_token: float, bytes_per_token: float = 1.0) -> float:
    """Return a cross-entropy in nats per token as bits per byte of text."""
    return nats_per_token / math.log(2) / bytes_per_token


class Loss(NamedTuple):
    """A loss as people read it."""

    value: float
    unit: str
    """bits/byte, nats, mse, or loss where nothing is known of it."""

    @property
    def figure(self) -> str:
        """The value in as many digits as a run shows."""
        return f"{self.value:.3f}" if self.unit == BITS else f"{self.value:.4g}"

    def __str__(self) -> str:
        return f"loss {self.figure}" if self.unit == "loss" else f"{self.figure} {self.unit}"


def last_loss(summary: Mapping[str, Any], row: Mapping[str, Any]) -> Loss | None:
    """The last training loss of a run: in bits per byte where tokens are bytes, else in the unit of its loss.

    Args:
        summary: contents of summary.json.
        row: last values in metrics.jsonl, for what a run that goes on has not written into its summary.
    """
    bits = summary.get("bits_per_byte")
    per_byte = _first_number(bits.get("last") if isinstance(bits, dict) else None, row.get("train/bits_per_byte"))
    if per_byte is not None:
        return Loss(per_byte, BITS)
    value = _first_number(summary.get("loss"), row.get("train/loss"))
    return None if value is None else Loss(value, str(summary.get("loss_unit") or "loss"))


def loss_column(losses: Iterable[Loss | None]) -> tuple[str, list[str]]:
    """The heading of a column of losses, which names their unit, and its texts; each has its own where they differ."""
    losses = list(losses)
    units = {loss.unit for loss in losses if loss is not None}
    if len(units) > 1:
        return "loss", ["" if loss is None else str(loss) for loss in losses]
    return units.pop() if units else "loss", ["" if loss is None else loss.figure for loss in losses]


def _first_number(*values: Any) -> float | None:
    known = (number for value in values if (number := as_number(value)) is not None)
    return next(known, None)


def counted(summary: Mapping[str, Any]) -> str:
    """What the throughput in a run's summary counts: tokens, or samples where its data has none."""
    return "samples" if summary.get("counted") == "samples" else "tokens"


def format_bytes(count: float, unit: str | None = None) -> str:
    """Return a number of bytes with three digits and a binary unit: `1.50 GiB`; in `unit`, if that is given."""
    unit = unit or _unit(count)
    size = count / 1024 ** BYTES.index(unit)
    return f"{_three_digits(size)} {unit}" if unit != "B" else f"{size:.0f} B"


def shared_unit(counts: Iterable[float | None]) -> str:
    """Return a unit for all numbers of bytes of a table: that of the largest, or one in which the least has digits."""
    known = [count for count in counts if count]
    units = BYTES[: BYTES.index(_unit(max(known, default=0))) + 1]
    return next((unit for unit in reversed(units) if min(known, default=0) >= 0.1 * 1024 ** BYTES.index(unit)), "B")


def _unit(count: float) -> str:
    return next((unit for power, unit in enumerate(BYTES) if abs(count) < 1000 * 1024**power), BYTES[-1])


def format_count(count: float) -> str:
    """Return a number with three digits and a decimal suffix: `41.2k`, `1.30M`."""
    size, suffix = float(count), ""
    for larger in ("k", "M", "G", "T", "P"):
        if not abs(size) >= 999.5 or math.isinf(size):
            break
        size, suffix = size / 1000, larger
    return f"{_three_digits(size)}{suffix}" if suffix and abs(size) < 999.5 else f"{count:.3g}"


def format_seconds(seconds: float) -> str:
    """Return a duration in its two largest units: `340 ms`, `2.3 s`, `42 s`, `1 min 05 s`, `2 h 03 min`, `4 d 01 h`."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds >= 1e11:
        return f"{seconds / 86400:.3g} d"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def _three_digits(size: float) -> str:
    if abs(size) >= 99.95:
        return f"{size:,.0f}" if abs(size) < 1e6 else f"{size:.3g}"
    return f"{size:.1f}" if abs(size) >= 9.995 else f"{size:.2f}"
