"""`zerokit ... --plot-schedule`: the learning rate over the steps of a run, in the terminal and as an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from zerokit.config.errors import writing
from zerokit.config.schedule import build_schedule
from zerokit.config.schema import Config
from zerokit.report.scale import Scale, linear, steps

WIDTH, HEIGHT = 80, 12
"""Columns and rows in the terminal."""
FILE = "schedule.svg"
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille character by row and column of its dots."""
COLORS = ("#0b6bcb", "#c2410c", "#15803d", "#7e22ce")

Curve = list[float]


def plot(configs: Sequence[Config]) -> int:
    """Draw the schedule of every configuration and write them into one picture in the working directory.

    Raises:
        ConfigError: a schedule cannot be built, or the picture not written.
    """
    curves: dict[str, list[tuple[str, Curve]]] = {"learning rate": [], "momentum": []}
    for number, config in enumerate(configs):
        label = config.scheduler.name if len(configs) == 1 else f"{number}: {config.scheduler.name}"
        rates = _rates(config)
        curves["learning rate"].append((label, [rate.lr for rate in rates]))
        if rates[0].momentum is not None:
            curves["momentum"].append((label, [rate.momentum for rate in rates]))
    for name, lines in curves.items():
        for label, curve in lines:
            print("\n".join([f"{name}, scheduler={label}, {len(curve)} steps", *draw(curve)]))
    with writing(f"Cannot write {FILE} in {Path.cwd()}"):
        Path(FILE).write_text(picture({name: lines for name, lines in curves.items() if lines}), encoding="utf-8")
    print(f"Written to {FILE}.")
    return 0


def _rates(config: Config) -> list:
    peak = getattr(config.optimizer.options, "lr", 1.0)
    schedule = build_schedule(config, peak)
    return [schedule(step) for step in range(config.train.steps)]


def draw(curve: Curve, width: int = WIDTH, height: int = HEIGHT) -> list[str]:
    """The curve in lines of at most `width` characters, with its axes."""
    up, across = _scale(curve), steps([0, len(curve) - 1])
    labels = _labels(up, height)
    margin = max(map(len, labels)) + 1
    canvas = _dots(curve, up, width - margin - 1, height)
    rows = [f"{label:>{margin - 1}} ┤{row}".rstrip() for label, row in zip(labels, canvas, strict=True)]
    return [*rows, " " * margin + "└" + "─" * (width - margin - 1), _axis(across, margin, width)]


def _scale(values: Curve) -> Scale:
    """From 0 where that leaves at least half of the height to the values."""
    return linear(values, zero=min(values) < max(values) / 2)


def _labels(up: Scale, height: int) -> list[str]:
    """The text at each row, from the top; ticks that would share a row are left out."""
    labels = [""] * height
    for tick in up.ticks:
        row = round((1 - up.at(tick)) * (height - 1))
        labels[row] = f"{tick:.4g}"
    return labels


def _dots(curve: Curve, up: Scale, columns: int, rows: int) -> list[str]:
    cells = [[0] * columns for _ in range(rows)]
    wide, high = 2 * columns - 1, 4 * rows - 1
    heights = []
    for x in range(wide + 1):
        step = x / wide * (len(curve) - 1)
        heights.append(round((1 - up.at(curve[round(step)])) * high))
    for x, y in enumerate(heights):
        before = heights[x - 1] if x else y
        for dot in range(min(y, before + (y > before)), max(y, before - (y < before)) + 1):
            cells[dot // 4][x // 2] |= DOTS[dot % 4][x % 2]
    return ["".join(chr(0x2800 + bits) if bits else " " for bits in row) for row in cells]


def _axis(across: Scale, margin: int, width: int) -> str:
    line = [" "] * width
    for tick in across.ticks:
        text = f"{tick:g}"
        start = min(margin + 1 + round(across.at(tick) * (width - margin - 2)), width - len(text))
        if all(character == " " for character in line[max(0, start - 1) : start + len(text)]):
            line[start : start + len(text)] = text
    return "".join(line).rstrip()


def picture(curves: dict[str, list[tuple[str, Curve]]]) -> str:
    """An SVG with one panel per quantity."""
    panels = "".join(_panel(name, lines, 260 * index) for index, (name, lines) in enumerate(curves.items()))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {260 * len(curves)}" '
        'font-family="system-ui, sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{panels}</svg>\n'
    )


def _panel(name: str, lines: list[tuple[str, Curve]], top: int) -> str:
    left, right, upper, lower = 70, 700, top + 36, top + 220
    up = _scale([value for _, curve in lines for value in curve])
    across = steps([0, max(len(curve) for _, curve in lines) - 1])

    def x(step: float) -> float:
        return left + across.at(step) * (right - left)

    def y(value: float) -> float:
        return lower - up.at(value) * (lower - upper)

    parts = [f'<text x="{left}" y="{top + 20}" font-weight="600">{escape(name)}</text>']
    for tick in up.ticks:
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end" fill="#555">{tick:.4g}</text>')
    for tick in across.ticks:
        parts.append(f'<text x="{x(tick):.1f}" y="{lower + 18}" text-anchor="middle" fill="#555">{tick:g}</text>')
    for number, (label, curve) in enumerate(lines):
        color = COLORS[number % len(COLORS)]
        points = " ".join(f"{x(s):.1f},{y(curve[s]):.1f}" for s in _kept(curve))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        place = left + 130 + 140 * number
        parts.append(f'<text x="{place}" y="{top + 20}" fill="{color}">{escape(label)}</text>')
    parts.append(f'<text x="{right}" y="{lower + 34}" text-anchor="end" fill="#555">step</text>')
    return "\n".join(parts) + "\n"


def _kept(curve: Curve) -> list[int]:
    """Steps that are drawn: at most about 1000, the last included."""
    stride = math.ceil(len(curve) / 1000)
    return [*range(0, len(curve) - 1, stride), len(curve) - 1]
