"""The sections of the report from top to bottom: functions from a run to HTML, empty if there is nothing to show.

A new section is a function added to `SECTIONS`. Everything that comes from a run goes through `escape`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from zerokit.config.parse import finite
from zerokit.record.metrics import format_bytes, printable
from zerokit.report.chart import CONTROLS, Bar, Line, bar_chart, format_value, line_chart
from zerokit.report.header import header
from zerokit.report.profile import profile
from zerokit.report.run import Run
from zerokit.report.tables import config_table, data_table, key_figures

DEVICE = ("Peak", "of each rank, with activations and buffers")
PROCESS = ("Growth of the process", "of each rank; the prediction is of tensors alone")
STATES = {"parameters": "parameters", "gradients": "gradients", "optimizer": "optimizer states"}
KINDS = {**STATES, "other": "the rest"}
MAX_RANKS = 16
PEAK = {"weights": "parameters", "master": "parameters", "gradients": "gradients", "optimizer": "optimizer"}
"""The kinds of a predicted peak that are measured by kind; everything else is the rest."""


def loss(run: Run) -> str:
    """Training and held-out loss, in bits per byte where they are known."""
    bits = bool(run.series("train/bits_per_byte"))
    metric = "bits_per_byte" if bits else "loss"
    lines = [
        Line("training", "first", run.series(f"train/{metric}"), places=run.places),
        Line("held out", "second", run.series(f"eval/{metric}"), dots=True, places=run.places),
    ]
    unit = "bits per byte" if bits else run.loss_unit
    return line_chart("Loss", unit, lines, wide=True, log_above=2.5)


def curves(run: Run) -> str:
    """Learning rate, throughput, gradient norm, step time, loss scale: small charts side by side."""
    charts = (
        line_chart("Learning rate", "per step", [_line(run, "optim/lr", "learning rate")], zero=True),
        line_chart("Throughput", f"{run.counted}/s, all ranks", [_line(run, "perf/tokens_per_sec")], zero=True),
        line_chart("Gradient norm", "before clipping", [_line(run, "train/grad_norm")]),
        _step_time(run),
        line_chart("Loss scale", "fp16", [_line(run, "precision/loss_scale")]),
        line_chart("Model FLOPs utilisation", _peak(run), [_line(run, "perf/mfu_pct")], zero=True),
        line_chart("Waiting for data", "% of the time", [_line(run, "time/data_pct", "waiting")], zero=True),
        _memory_curve(run),
    )
    return "".join(charts)


def memory(run: Run) -> str:
    """Memory of each rank by kind, and what its model states would have taken at stage 0."""
    ranks = run.memory
    if not ranks:
        return ""
    stage0 = run.section("stage0")
    shown = sorted(range(len(ranks)), key=lambda rank: -_sum(ranks[rank], KINDS))[:MAX_RANKS]
    shown.sort()
    states = [_bar(f"rank {rank}", ranks[rank], STATES) for rank in shown]
    storage, peak = _predicted(run)
    states += [_bar("predicted", storage, STATES, classes=["forecast"])] if storage else []
    if stage0:
        ratio = _sum(stage0, STATES) / max(1.0, max(_sum(row, STATES) for row in ranks))
        states.append(_bar("stage 0", stage0, STATES, f"{ratio:.2f}×", ["reference"]))
    whole = [_bar(f"rank {rank}", ranks[rank], KINDS) for rank in shown]
    whole += [_bar("predicted", peak, KINDS, classes=["forecast"])] if peak else []
    title, unit = PROCESS if run.device == "cpu" else DEVICE
    more = f"<p>The {MAX_RANKS} fullest of {len(ranks)} ranks.</p>" if len(ranks) > MAX_RANKS else ""
    return f"""<section id="memory"><h2>Memory</h2>{more}<div class="charts">
{bar_chart("Model states", "of each rank, against what stage 0 needs on every rank", states, STATES)}
{bar_chart(title, unit, whole, KINDS)}
</div></section>"""


def _predicted(run: Run) -> tuple[dict[str, float], dict[str, float]]:
    """Predicted bytes of the fullest rank by kind: of the model's states, and at the peak; empty where not known."""
    known = run.section("predicted")
    storage, memory = (known.get(name) if isinstance(known.get(name), dict) else {} for name in ("storage", "memory"))
    peak: dict[str, float] = {}
    for name, size in memory.items():
        kind = PEAK.get(name, "other")
        peak[kind] = peak.get(kind, 0.0) + (finite(size) or 0.0)
    return {kind: finite(storage.get(kind)) or 0.0 for kind in STATES} if storage else {}, peak


def sample(run: Run) -> str:
    """Text generated at the end."""
    text = run.summary.get("sample")
    if not text:
        return ""
    return f'<section id="sample"><h2>Generated text</h2><pre>{escape(printable(str(text)))}</pre></section>'


def figures(run: Run) -> str:
    """All loss and speed charts."""
    content = loss(run) + curves(run)
    if not content:
        words = "No step has been logged yet." if run.goes_on else "No step was logged."
        return f'<section><p class="empty">{words}</p></section>'
    return f'<section id="curves"><h2>Training</h2>{CONTROLS}<div class="charts">{content}</div></section>'


SECTIONS: list[Callable[[Run], str]] = [header, key_figures, figures, memory, profile, sample, config_table, data_table]


def _line(run: Run, name: str, label: str | None = None, color: str = "first") -> Line:
    return Line(label or name.partition("/")[2].replace("_", " "), color, run.series(name), places=run.places)


def _peak(run: Run) -> str:
    peak = run.summary.get("peak_tflops")
    return f"% of {peak:g} TFLOP/s" if peak else "% of the peak"


def _memory_curve(run: Run) -> str:
    """Peak memory over time, only where it moves: the memory section shows the end."""
    lines = [
        _line(run, "memory/max_allocated_gib", "highest"),
        _line(run, "memory/min_allocated_gib", "lowest", "third"),
    ]
    texts = {format_value(value) for line in lines for _, value in line.points}
    if len(texts) <= 2 and run.memory:
        return ""
    lines, unit = _in_unit(lines, (("GiB", 1), ("MiB", 1024)))
    return line_chart("Memory", f"{unit}, peak of the ranks", lines, zero=True)


def _step_time(run: Run) -> str:
    lines, unit = _in_unit([_line(run, "perf/step_time_s")], (("s", 1), ("ms", 1000)))
    return line_chart("Step time", unit, lines, zero=True)


def _in_unit(lines: list[Line], units: tuple[tuple[str, float], ...]) -> tuple[list[Line], str]:
    """Return the lines in the first unit in which their largest value is at least 1, else in the last, and its name."""
    top = max((value for line in lines for _, value in line.points if not math.isnan(value)), default=1.0)
    unit, size = next((item for item in units if top * item[1] >= 1), units[-1])
    return [replace(line, points=[(step, value * size) for step, value in line.points]) for line in lines], unit


def _bar(label: str, row: dict[str, Any], kinds: dict[str, str], note: str = "", classes: Sequence[str] = ()) -> Bar:
    parts = [(kind, finite(row.get(kind)) or 0.0) for kind in kinds]
    return Bar(label, parts, format_bytes(_sum(row, kinds)), note, list(classes))


def _sum(row: dict[str, Any], kinds: dict[str, str]) -> float:
    return sum(finite(row.get(kind)) or 0.0 for kind in kinds)
