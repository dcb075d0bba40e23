"""The sections of a sweep's report from top to bottom, as `sections` has them for a run.

Everything that comes from a run goes through `escape`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from zerokit.record.advice import advice
from zerokit.record.metrics import format_bytes, format_count, printable, shared_unit
from zerokit.report.cells import LOSSES, Cell, Sweep, differing
from zerokit.report.chart import CONTROLS, DASHES, Bar, Line, bar_chart, key, line_chart
from zerokit.report.compare import frontier, parities, told
from zerokit.report.growth import largest, scaling
from zerokit.report.header import MARKS
from zerokit.report.rows import columns, remarks, rows
from zerokit.report.run import KINDS
from zerokit.report.scatter import Point, scatter
from zerokit.report.sections import KINDS as NAMES

COLORS = 8
TITLES = {"train": "Training loss", "eval": "Held-out loss"}
MAX_OPTIONS = 60
MAX_LINES = 16
NOT_STARTED = "It was not started. sweep.force=true runs it all the same."
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"))


@dataclass(frozen=True)
class View:
    """What the sections show."""

    sweep: Sweep
    baseline: Cell | None


def header(view: View) -> str:
    """How many cells ended how, the name, and the command."""
    sweep = view.sweep
    counts: dict[str, int] = {}
    for cell in sweep.cells:
        counts[cell.status] = counts.get(cell.status, 0) + 1
    badges = "".join(
        f'<span class="badge {escape(_css(status))}">{MARKS.get(status, "·")} {count} {escape(status)}</span>'
        for status, count in counts.items()
    )
    command = f"<pre class='command'>{escape(printable(sweep.command))}</pre>" if sweep.command else ""
    return (
        f"""<header><p class="over">{badges}</p><h1>{escape(printable(sweep.directory.name))}</h1>{command}</header>"""
    )


def figures(view: View) -> str:
    """The best cells, large."""
    finished = view.sweep.finished()
    found = []
    fastest = max((cell for cell in finished if cell.speed), key=lambda cell: cell.speed, default=None)
    leanest = min((cell for cell in finished if cell.peak), key=lambda cell: cell.peak, default=None)
    if fastest:
        found.append((f"fastest, {view.sweep.counted}/s", format_count(fastest.speed), fastest.label))
    if leanest:
        found.append(("least memory of a rank", format_bytes(leanest.peak), leanest.label))
    checks = parities(view.sweep)
    if checks:
        same = sum(parity.identical for parity in checks)
        verdict = "identical" if same == len(checks) else f"{same} of {len(checks)} identical"
        found.append(("weights of the stages", verdict, "bit for bit"))
    large = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(figure)}</dd><dd>{escape(printable(note))}</dd></div>"
        for label, figure, note in found
    )
    return f'<section id="figures"><dl class="large">{large}</dl></section>' if large else ""


def table(view: View) -> str:
    """One row per cell."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns(view.sweep))
    shown = rows(view.sweep, view.baseline)
    body = "".join(_row(cells, cell.page) for cells, cell in zip(shown, view.sweep.cells, strict=True))
    notes = " ".join(escape(printable(note)) for note in remarks(view.sweep, view.baseline))
    return f"""<section id="cells"><h2>Cells</h2>
<p>{notes}</p>
<div class="scroll" tabindex="0" role="region" aria-label="Cells"><table class="cells">
<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"""


def tradeoff(view: View) -> str:
    """Throughput against memory."""
    known = [cell for cell in view.sweep.cells if cell.speed and cell.peak]
    if len(known) < 2:
        return ""
    size, unit = next((item for item in UNITS if max(cell.peak for cell in known) >= item[0]), UNITS[-1])
    best = frontier(known)
    points = {
        cell.number: Point(
            cell.number,
            _color(cell),
            cell.peak / size,
            cell.speed,
            f"{cell.label}: {format_count(cell.speed)} {cell.run.counted}/s, {format_bytes(cell.peak)}",
            hollow=cell not in best,
        )
        for cell in known
    }
    chart = scatter(
        "Throughput against memory",
        f"{view.sweep.counted}/s of all ranks; the frontier is filled and joined",
        f"{unit} per rank",
        list(points.values()),
        [points[cell.number] for cell in best],
    )
    return f"""<section id="tradeoff"><h2>Throughput against memory</h2>
<div class="charts">{chart}</div>{_legend(known)}</section>"""


def growth(view: View) -> str:
    """What the numbers of ranks and the sizes of the model say, where they differ."""
    charts = scaling(view.sweep) + largest(view.sweep)
    if not charts and not view.sweep.conclusions:
        return ""
    told = "".join(f"<p>{escape(printable(line))}</p>" for line in view.sweep.conclusions)
    return f'<section id="growth"><h2>Growth</h2><div class="charts">{charts}</div>{told}</section>'


def memory(view: View) -> str:
    """Memory by kind, with the prediction as a mark."""
    known = [cell for cell in view.sweep.cells if cell.memory or cell.predicted]
    unit = shared_unit(size for cell in known for size in (sum(cell.memory.values()), cell.predicted))
    bars = [_bar(cell, unit) for cell in known]
    if not bars:
        return ""
    predicted = any(bar.mark for bar in bars)
    kind = "model's states" if all(cell.on_cpu for cell in known) else "peak"
    unit = f"{kind} of the fullest rank" + ("; ○ is the prediction" if predicted else "")
    chart = bar_chart("Memory by kind", unit, bars, NAMES)
    return f'<section id="memory"><h2>Memory</h2><div class="charts one">{chart}</div></section>'


def losses(view: View) -> str:
    """The loss of every cell over the steps, and whether the stages agree."""
    chart = "".join(
        _loss_chart([cell for cell in view.sweep.cells if cell.run and cell.run.series(f"{kind}/loss")], kind)
        for kind in ("train", "eval")
    )
    checks = "".join(
        f'<li class="{"same" if parity.identical else "apart"}">{escape(printable(told(parity)))}</li>'
        for parity in parities(view.sweep)
    )
    checks = f'<ul class="parity">{checks}</ul>' if checks else "<p>No two finished cells compute the same thing.</p>"
    charts = f'{CONTROLS}<div class="charts">{chart}</div>' if chart else ""
    return f'<section id="losses"><h2>Loss</h2>{charts}<h3>Do the stages agree?</h3>{checks}</section>'


def differences(view: View) -> str:
    """The options in which the cells differ, side by side."""
    cells = [cell for cell in view.sweep.cells if cell.run and cell.run.config]
    options = differing([cell.run.config for cell in cells])
    if not options:
        return ""
    head = "".join(f'<th scope="col">{escape(printable(_named(cell)))}</th>' for cell in cells)
    body = "".join(
        f'<tr><th scope="row" class="name">{escape(printable(key))}</th>'
        + "".join(f"<td>{escape(printable(value))}</td>" for value in values)
        + "</tr>"
        for key, values in list(options.items())[:MAX_OPTIONS]
    )
    more = f"<p>The first {MAX_OPTIONS} of {len(options)}.</p>" if len(options) > MAX_OPTIONS else ""
    return f"""<section id="differences"><h2>What differs</h2>{more}
<div class="scroll" tabindex="0" role="region" aria-label="What differs"><table>
<thead><tr><th scope="col"></th>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"""


def failures(view: View) -> str:
    """The cells that did not finish, and why."""
    parts = []
    for cell in view.sweep.cells:
        if cell.reason or cell.status in ("failed", "interrupted"):
            started = cell.run is not None
            hint = advice({"status": cell.status, "error": cell.reason}) if started else NOT_STARTED
            logs = f"<p>{escape(cell.folder.name)}/logs</p>" if started else ""
            first = printable(cell.reason.strip() or cell.status)
            title = escape(printable(f"{cell.number} {cell.label}: {cell.status}"))
            parts.append(
                f'<div class="ending {escape(_css(cell.status))}"><p>{title}</p>'
                f"<p><b>{escape(first)}</b></p><p>{escape(hint)}</p>"
                f"{logs}</div>"
            )
    return f'<section id="failures"><h2>Not finished</h2>{"".join(parts)}</section>' if parts else ""


def commands(view: View) -> str:
    """The command that repeats each cell."""
    items = "".join(
        f"<dt>{escape(printable(f'{cell.number} {cell.label}'))}</dt>"
        f"<dd><pre class='command'>{escape(printable(cell.command))}</pre></dd>"
        for cell in view.sweep.cells
    )
    return f"""<section id="commands"><h2>Commands</h2><details><summary>Repeat one cell</summary>
<dl class="repeat">{items}</dl></details></section>"""


SECTIONS: list[Callable[[View], str]] = [
    header,
    figures,
    table,
    failures,
    tradeoff,
    growth,
    memory,
    losses,
    differences,
    commands,
]


def _loss_chart(cells: list[Cell], kind: str) -> str:
    """One line for each course of the loss (`train` or `eval`): cells that agree in every value share it."""
    if not cells:
        return ""
    per_byte, own = (f"{kind}/{name.partition('/')[2]}" for name in LOSSES)
    metric = per_byte if all(cell.run.series(per_byte) for cell in cells) else own
    equal: dict[tuple[tuple[float, float], ...], list[Cell]] = {}
    for cell in cells:
        equal.setdefault(tuple(cell.run.series(metric)), []).append(cell)
    shown = list(equal.items())[:MAX_LINES]
    lines = [
        Line(
            " = ".join(map(_named, same)),
            _color(same[0]),
            list(points),
            dots=kind == "eval",
            dash=DASHES[place % len(DASHES)],
            places=same[0].run.places,
        )
        for place, (points, same) in enumerate(shown)
    ]
    units = {"bits per byte"} if metric == per_byte else {cell.run.loss_unit for cell in cells}
    notes = [units.pop() if len(units) == 1 else "as each model computes it"]
    if len(equal) == 1 < len(cells):
        notes.append(f"equal in all {len(cells)} cells")
    elif len(equal) < len(cells):
        notes.append("= joins cells whose losses are equal")
    notes += [f"the first {MAX_LINES} of {len(equal)} courses"] if len(equal) > MAX_LINES else []
    return line_chart(TITLES[kind], "; ".join(notes), lines, wide=True, log_above=2.5)


def _row(cells: list[str], page: str | None) -> str:
    number, label, status, *rest = (escape(printable(cell)) for cell in cells)
    body = "".join(f"<td>{cell}</td>" for cell in rest)
    css = escape(_css(cells[2]))
    label = f'<a href="{escape(quote(page))}">{label}</a>' if page else label
    return f'<tr><td>{number}</td><th scope="row">{label}</th><td class="state {css}">{status}</td>{body}</tr>'


def _bar(cell: Cell, unit: str) -> Bar:
    parts = [(kind, cell.memory.get(kind, 0.0)) for kind in KINDS]
    measured = sum(size for _, size in parts)
    note = f"predicted {format_bytes(cell.predicted, unit)}" if cell.predicted else ""
    text = format_bytes(measured, unit) if measured else "not run"
    return Bar(
        f"{cell.number} {cell.label}", parts, text, note, mark=cell.predicted if measured and cell.comparable else None
    )


def _legend(cells: list[Cell]) -> str:
    items = "".join(key(_color(cell), _named(cell)) for cell in cells)
    return f'<ul class="legend">{items}</ul>'


def _color(cell: Cell) -> str:
    return f"c{(cell.number - 1) % COLORS + 1}"


def _named(cell: Cell) -> str:
    return f"{cell.number} {cell.label}"


def _css(status: str) -> str:
    return status.replace(" ", "-")
