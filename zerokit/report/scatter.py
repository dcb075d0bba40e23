"""A chart of numbered points, such as throughput against memory. Like the others it stretches with the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from zerokit.report.chart import grid, ticks
from zerokit.report.scale import LOG_RATIO, Scale, automatic, linear

SIZES = ((260.0, 210.0), (780.0, 290.0))
"""Width and height in pixels, on a phone and on a wide page, for which numbers are placed apart."""
NUMBER = (20.0, 16.0)
"""Room that a number takes."""
CLEAR = 10.0
"""Distance from the middle of a number to a line."""
PLACES = ((14, 0), (-14, 0), (0, -15), (0, 15), (13, -13), (13, 13), (-13, -13), (-13, 13), (26, 0), (-26, 0))
"""Where a number may stand from the middle of its point, best first."""


@dataclass(frozen=True)
class Point:
    """One point."""

    number: int
    color: str
    """Name of a CSS variable, without the dashes."""
    x: float
    y: float
    text: str
    """What a pointer that rests on it reads."""
    hollow: bool = False


def scatter(title: str, unit: str, axis: str, points: list[Point], joined: list[Point]) -> str:
    """Return a figure of points; an empty text if there is none.

    Args:
        title: what is shown.
        unit: of the vertical axis, which starts at 0 unless values are far apart.
        axis: of the horizontal one.
        points: in the order in which they are drawn.
        joined: those that a line joins, from left to right.
    """
    if not points:
        return ""
    across = _wider(automatic([point.x for point in points]))
    heights = [point.y for point in points]
    up = automatic(heights) if max(heights) > LOG_RATIO * min(heights) > 0 else linear(heights, zero=True)
    marks, left_out = _marks(points, joined, across, up)
    logarithmic = [name for name, scale in (("vertical", up), ("horizontal", across)) if scale.logarithmic]
    unit += f"; {' and '.join(logarithmic)} log scale" if logarithmic else ""
    note = '<p class="empty">Where points are too close, numbers are left out: rest on one to read it.</p>'
    path = "".join(f"{'L' if i else 'M'}{_at(point, across, up)}" for i, point in enumerate(joined))
    spoken = "; ".join(point.text for point in points)
    return f"""<figure class="chart scatter wide">
<figcaption><b>{escape(title)}</b> <span>{escape(unit)}</span></figcaption>
<div class="frame" role="img" aria-label="{escape(f"{title}: {spoken}")}">
<div class="y">{ticks(up, "bottom")}</div>
<div class="plot">{grid(up)}<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">\
<path class="front" d="{path}"/></svg>{marks}</div>
<div class="x" data-axis="{escape(axis)}">{ticks(across, "left")}</div>
</div>
{note if left_out else ""}</figure>"""


def _wider(scale: Scale) -> Scale:
    """Leave room for points at the ends; a logarithmic scale has some."""
    if scale.logarithmic:
        return scale
    margin = (scale.high - scale.low) * 0.04
    return Scale(scale.low - margin, scale.high + margin, scale.ticks)


def _at(point: Point, across: Scale, up: Scale) -> str:
    return f"{across.at(point.x) * 1000:.1f} {(1 - up.at(point.y)) * 1000:.1f}"


def _marks(points: list[Point], joined: list[Point], across: Scale, up: Scale) -> tuple[str, int]:
    """Return the points with their numbers, and how many numbers found no room."""
    sheets = [_Sheet(size, points, joined, across, up) for size in SIZES]
    marks, left_out = [], 0
    for point in points:
        offset = next((place for place in PLACES if all(sheet.is_free(point, place) for sheet in sheets)), None)
        place = f"left:{across.at(point.x) * 100:.2f}%;bottom:{up.at(point.y) * 100:.2f}%"
        kind = "dot hollow" if point.hollow else "dot"
        marks.append(f'<b class="{kind}" title="{escape(point.text)}" style="{place};--ink:var(--{point.color})"></b>')
        if offset is None:
            left_out += 1
            continue
        for sheet in sheets:
            sheet.take(point, offset)
        marks.append(
            f'<span class="number" style="{place};--dx:{offset[0]}px;--dy:{offset[1]}px">{point.number}</span>'
        )
    return "".join(marks), left_out


class _Sheet:
    """What is drawn on a plot of one size, in pixels from its lower left corner."""

    def __init__(
        self, size: tuple[float, float], points: list[Point], joined: list[Point], across: Scale, up: Scale
    ) -> None:
        self._at = {id(point): (across.at(point.x) * size[0], up.at(point.y) * size[1]) for point in points}
        self._height = size[1]
        self._taken = list(self._at.values())
        ends = [self._at[id(point)] for point in joined]
        self._lines = list(zip(ends, ends[1:], strict=False))

    def is_free(self, point: Point, offset: tuple[int, int]) -> bool:
        """Whether a number beside a point would cover no other, no point and no line."""
        x, y = self._place(point, offset)
        apart = all(abs(x - a) >= NUMBER[0] * 0.65 or abs(y - b) >= NUMBER[1] * 0.8 for a, b in self._taken)
        return apart and 0 < y < self._height and all(_distance(x, y, *line) >= CLEAR for line in self._lines)

    def take(self, point: Point, offset: tuple[int, int]) -> None:
        """Keep the place of a number."""
        self._taken.append(self._place(point, offset))

    def _place(self, point: Point, offset: tuple[int, int]) -> tuple[float, float]:
        x, y = self._at[id(point)]
        return x + offset[0], y - offset[1]


def _distance(x: float, y: float, start: tuple[float, float], end: tuple[float, float]) -> float:
    """Distance of a place to a stretch of a line."""
    across, up = end[0] - start[0], end[1] - start[1]
    along = ((x - start[0]) * across + (y - start[1]) * up) / ((across**2 + up**2) or 1.0)
    along = min(1.0, max(0.0, along))
    return math.hypot(x - start[0] - along * across, y - start[1] - along * up)
