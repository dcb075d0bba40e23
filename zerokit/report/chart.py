"""Charts as HTML with inline SVG: shapes stretch with the page, text keeps its size."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from zerokit.report.scale import LOG_RATIO, Scale, automatic, format_tick, linear, steps

CONTROLS = """<form class="controls" hidden><label>x <select name="x"><option value="step">step</option>\
<option value="tokens">tokens</option><option value="seconds">time</option></select></label>
<label><input type="checkbox" name="log"> log axis</label>
<label>smoothing <input type="range" name="smooth" min="0" max="0.98" step="0.02" value="0"></label></form>
"""
"""Choices for all charts of a page, which its script shows."""
AXES = ("tokens", "seconds")
"""What a page may show in place of steps; the script draws it."""
MAX_POINTS = 500
MAX_NAMED = 4
"""Lines that have room for their names at their ends."""
MAX_NAME = 14
"""Characters of such a name."""
LABEL_GAP = 0.075
DASHES = ("", "9 7", "3 8", "14 4 2 4", "1 6", "6 12", "18 5", "9 4 1 4 1 4")
"""Patterns for lines that may lie on each other: later ones leave gaps, through which earlier ones are seen."""


@dataclass(frozen=True)
class Line:
    """One series of a line chart."""

    label: str
    color: str
    """Name of a CSS variable, without the dashes."""
    points: list[tuple[float, float]]
    """(step, value); NaN breaks the line."""
    dots: bool = False
    """Whether the points are marked; for series of few points."""
    dash: str = ""
    """SVG's pattern of dashes, so that it is told from others without its color, and not hidden by one on top of it."""
    places: Mapping[str, Mapping[float, float]] = field(default_factory=dict)
    """Where else the steps lie: by the name of another axis (tokens, seconds), its value at each step."""


@dataclass(frozen=True)
class Bar:
    """One stacked bar."""

    label: str
    parts: list[tuple[str, float]]
    """(name of the kind, which is also its CSS variable; bytes)."""
    text: str
    """What stands at its end."""
    note: str = ""
    classes: list[str] = field(default_factory=list)
    mark: float | None = None
    """Bytes at which a mark stands, such as a prediction."""


def line_chart(
    title: str,
    unit: str,
    lines: list[Line],
    zero: bool = False,
    wide: bool = False,
    log_above: float = LOG_RATIO,
    axis: str = "step",
) -> str:
    """Return a figure with lines over optimizer steps; an empty text if there is no point.

    The lines carry their names where there are few, else a legend does.

    Args:
        title: what is shown.
        unit: of the values.
        lines: series; those without points are left out.
        zero: whether the axis starts at 0.
        wide: whether the figure takes the whole width of the page.
        log_above: ratio of the largest to the smallest value above which the axis is logarithmic.
        axis: what the lines run over.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    values = [value for line in lines for _, value in line.points if not math.isnan(value)]
    across = steps(step for line in lines for step, _ in line.points)
    up = linear(values, zero=True) if zero else automatic(values, log_above)
    shapes = "".join(_shape(line, across, up) for line in lines)
    crowded = len(lines) > MAX_NAMED or max(len(line.label) for line in lines) > MAX_NAME
    classes = " ".join(["chart", *["wide"] * wide, *["named"] * (1 < len(lines) <= MAX_NAMED), *["many"] * crowded])
    return f"""<figure class="{classes}" data-zero="{int(zero)}">
<figcaption><b>{escape(title)}</b> <span>{escape(unit)}{", log scale" if up.logarithmic else ""}</span></figcaption>
<div class="frame" role="img" aria-label="{escape(_describe(title, unit, lines, axis))}">
<div class="y">{ticks(up, "bottom")}</div>
<div class="plot">{grid(up)}<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">{shapes}</svg>
{_dots(lines, across, up)}{"" if crowded else _labels(lines, up)}<div class="hair" hidden></div>\
<div class="tip" hidden></div></div>
<div class="x" data-axis="{escape(axis)}">{ticks(across, "left")}</div>
</div>
{_keys(lines)}{_caption(lines)}<script type="application/json">{_data(lines, across)}</script>
</figure>"""


def bar_chart(title: str, unit: str, bars: list[Bar], labels: dict[str, str]) -> str:
    """Return a figure with horizontal stacked bars on one scale that starts at 0.

    Args:
        title: what is shown.
        unit: what the bars add up.
        bars: from top to bottom.
        labels: kinds, in the order of the legend, with their names for people.
    """
    longest = max((max(bar.mark or 0, sum(size for _, size in bar.parts)) for bar in bars), default=0) or 1
    legend = "".join(key(kind, name) for kind, name in labels.items())
    rows = "".join(_bar(bar, longest, labels) for bar in bars)
    return f"""<figure class="bars">
<figcaption><b>{escape(title)}</b> <span>{escape(unit)}</span></figcaption>
<ul class="legend">{legend}</ul>
<div class="rows">{rows}</div>
</figure>"""


def _bar(bar: Bar, longest: float, labels: dict[str, str]) -> str:
    shapes, place = [], 0.0
    whole = sum(size for _, size in bar.parts) or 1.0
    for kind, size in bar.parts:
        width = size / longest * 100
        shapes.append(
            f'<rect x="{place:.3f}%" width="{width:.3f}%" height="100%" style="fill:var(--{kind})">'
            f"<title>{escape(labels[kind])}: {size / whole:.0%}</title></rect>"
        )
        place += width
    total = f"{place:.3f}%"
    mark = f'<circle class="mark" cx="{bar.mark / longest * 100:.3f}%" cy="9" r="4.5"/>' if bar.mark else ""
    note = f" <span>{escape(bar.note)}</span>" if bar.note else ""
    return f"""<div class="{" ".join(["row", *bar.classes])}"><span class="name">{escape(bar.label)}</span>
<svg height="18" role="img" aria-label="{escape(f"{bar.label}: {bar.text}")}"><g>{"".join(shapes)}</g>\
<line x1="{total}" x2="{total}" y1="0" y2="18"/>{mark}</svg>
<span class="value">{escape(bar.text)}{note}</span></div>"""


def _shape(line: Line, across: Scale, up: Scale) -> str:
    path, pen = [], "M"
    for step, value in thin(line.points):
        if not _drawable(value, up):
            pen = "M"
            continue
        path.append(f"{pen}{across.at(step) * 1000:.1f} {(1 - up.at(value)) * 1000:.1f}")
        pen = "L"
    return f'<path d="{"".join(path)}" style="{_stroke(line)}"/>'


def _stroke(line: Line) -> str:
    return f"stroke:var(--{line.color})" + (f";stroke-dasharray:{line.dash}" if line.dash else "")


def thin(points: list[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """Return at most about `limit` points, keeping the lowest and highest of each stretch and every gap (NaN)."""
    if len(points) <= limit:
        return points
    stretch = math.ceil(len(points) / (limit // 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        finite = [point for point in part if not math.isnan(point[1])]
        gap = [point for point in part if math.isnan(point[1])][:1]
        extremes = [min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])] if finite else []
        kept += sorted({*extremes, *gap}, key=lambda point: point[0])
    return kept if math.isnan(points[-1][1]) or kept[-1] == points[-1] else [*kept, points[-1]]


def _drawable(value: float, up: Scale) -> bool:
    return not math.isnan(value) and (value > 0 or not up.logarithmic)


def ticks(scale: Scale, side: str) -> str:
    """Return the labels of an axis; `side` is the CSS property that places them."""
    places = zip(scale.ticks, scale.labels(), strict=True)
    return "".join(f'<span style="{side}:{scale.at(tick) * 100:.2f}%">{label}</span>' for tick, label in places)


def grid(up: Scale) -> str:
    """Return a rule across the plot at each tick."""
    return "".join(f'<i style="bottom:{up.at(tick) * 100:.2f}%"></i>' for tick in up.ticks)


def _dots(lines: list[Line], across: Scale, up: Scale) -> str:
    """Mark the points of short series, and single points, which a line cannot show."""
    dots = []
    for line in lines:
        if line.dots or len(line.points) == 1:
            for step, value in line.points:
                if _drawable(value, up):
                    place = f"left:{across.at(step) * 100:.2f}%;bottom:{up.at(value) * 100:.2f}%"
                    dots.append(f'<b class="dot" style="{place};--ink:var(--{line.color})"></b>')
    return "".join(dots)


def _labels(lines: list[Line], up: Scale) -> str:
    """Write each line's last value (and its name where there are several) at its end, apart from each other."""
    ends = []
    for line in lines:
        finite = [value for _, value in line.points if _drawable(value, up)]
        if finite:
            ends.append((up.at(finite[-1]), finite[-1], line))
    ends.sort(key=lambda end: end[0])
    texts, floor = [], -math.inf
    for place, value, line in ends:
        place = max(place, floor)
        floor = place + LABEL_GAP
        name = f"<span>{escape(line.label)} </span>" if len(lines) > 1 else ""
        style = f"bottom:{place * 100:.2f}%;--ink:var(--{line.color})"
        texts.append(f'<span class="end" style="{style}">{name}<b>{format_value(value)}</b></span>')
    return "".join(texts)


def format_value(value: float) -> str:
    """Return a value of a chart in about four digits."""
    if not math.isfinite(value):
        return "not finite"
    if value == int(value) or not 0.1 <= abs(value) < 100:
        return format_tick(value)
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def _keys(lines: list[Line]) -> str:
    """Return the legend of a chart with several lines, for narrow pages that have no room for names at their ends."""
    if len(lines) < 2:
        return ""
    items = "".join(
        f'<li><svg width="34" height="8" aria-hidden="true"><path d="M1 4H33" style="{_stroke(line)}"/></svg>'
        f"{escape(line.label)}</li>"
        for line in lines
    )
    return f'<ul class="legend keys">{items}</ul>'


def key(color: str, name: str) -> str:
    """Return an entry of a legend."""
    return f'<li><i style="background:var(--{color})"></i>{escape(name)}</li>'


def _caption(lines: list[Line]) -> str:
    notes = []
    for line in lines:
        broken = [step for step, value in line.points if math.isnan(value)]
        if broken:
            count = "1 value" if len(broken) == 1 else f"{len(broken)} values"
            notes.append(f"{line.label}: {count} not finite, the first at step {broken[0]:g}.")
    return f'<p class="warn">{escape(" ".join(notes))}</p>' if notes else ""


def _describe(title: str, unit: str, lines: list[Line], axis: str) -> str:
    parts = []
    for line in lines:
        finite = [(step, value) for step, value in line.points if not math.isnan(value)]
        if finite:
            (first, start), (last, end) = finite[0], finite[-1]
            span = f"from {format_value(start)} at {axis} {first:g} to {format_value(end)} at {axis} {last:g}"
            parts.append(f"{line.label} {span}")
    return f"{title} in {unit}: {'; '.join(parts) or 'no finite value'}."


def _point(line: Line, step: float, value: float, across: Scale) -> list[Any]:
    """Place from 0 to 1, step, what people read, value, and where it lies on the line's other axes."""
    known = None if math.isnan(value) else value
    others = [line.places[axis].get(step) for axis in AXES if line.places.get(axis)]
    return [round(across.at(step), 4), step, None if known is None else format_value(value), known, *others]


def _data(lines: list[Line], across: Scale) -> str:
    """Return the points for read-outs and other axes, as JSON that cannot end its script element."""
    series = [
        {
            "label": line.label,
            "color": line.color,
            "dash": line.dash,
            "dots": line.dots,
            "places": [axis for axis in AXES if line.places.get(axis)],
            "points": [_point(line, step, value, across) for step, value in thin(line.points)],
        }
        for line in lines
    ]
    return json.dumps(series, separators=(",", ":")).replace("<", "\\u003c")
