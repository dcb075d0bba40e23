"""A chart of numbered points, such as throughput against memory. Like the others it stretches with the page."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from zerokit.report.chart import grid, ticks
from zerokit.report.scale import Scale, linear

SIZE = (600.0, 270.0)
"""Width and height in pixels for which numbers are placed apart; on a narrower page they come closer."""
NUMBER = (20.0, 16.0)
"""Room that a number takes."""
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
        unit: of the vertical axis, which starts at 0.
        axis: of the horizontal one.
        points: in the order in which they are drawn.
        joined: those that a line joins, from left to right.
    """
    if not points:
        return ""
    across = _wider(linear([point.x for point in points]))
    up = linear([point.y for point in points], zero=True)
    path = "".join(f"{'L' if i else 'M'}{_at(point, across, up)}" for i, point in enumerate(joined))
    spoken = "; ".join(point.text for point in points)
    return f"""<figure class="chart scatter wide">
<figcaption><b>{escape(title)}</b> <span>{escape(unit)}</span></figcaption>
<div class="frame" role="img" aria-label="{escape(f"{title}: {spoken}")}">
<div class="y">{ticks(up, "bottom")}</div>
<div class="plot">{grid(up)}<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">\
<path class="front" d="{path}"/></svg>{_marks(points, across, up)}</div>
<div class="x" data-axis="{escape(axis)}">{ticks(across, "left")}</div>
</div>
</figure>"""


def _wider(scale: Scale) -> Scale:
    """Leave room for points at the ends."""
    margin = (scale.high - scale.low) * 0.04
    return Scale(scale.low - margin, scale.high + margin, scale.ticks)


def _at(point: Point, across: Scale, up: Scale) -> str:
    return f"{across.at(point.x) * 1000:.1f} {(1 - up.at(point.y)) * 1000:.1f}"


def _marks(points: list[Point], across: Scale, up: Scale) -> str:
    taken = [(across.at(point.x) * SIZE[0], up.at(point.y) * SIZE[1]) for point in points]
    marks = []
    for point, (x, y) in zip(points, list(taken), strict=True):
        right, below = next((place for place in PLACES if _is_free(x + place[0], y - place[1], taken)), PLACES[0])
        taken.append((x + right, y - below))
        place = f"left:{x / SIZE[0] * 100:.2f}%;bottom:{y / SIZE[1] * 100:.2f}%"
        kind = "dot hollow" if point.hollow else "dot"
        marks.append(
            f'<b class="{kind}" title="{escape(point.text)}" style="{place};--ink:var(--{point.color})"></b>'
            f'<span class="number" style="{place};--dx:{right}px;--dy:{below}px">{point.number}</span>'
        )
    return "".join(marks)


def _is_free(x: float, y: float, taken: list[tuple[float, float]]) -> bool:
    return all(abs(x - other) >= NUMBER[0] * 0.65 or abs(y - above) >= NUMBER[1] * 0.8 for other, above in taken)
