"""Charts of sweeps over the number of ranks and over the size of the model."""

from __future__ import annotations

from html import escape

from zerokit.record.metrics import format_count
from zerokit.report.cells import Cell, Sweep
from zerokit.report.chart import Bar, Line, bar_chart, line_chart


def scaling(sweep: Sweep) -> str:
    """Throughput against the number of ranks: a line for each batch rule, and what a perfect one would give."""
    known = [cell for cell in sweep.finished() if cell.world and cell.speed]
    if len({cell.world for cell in known}) < 2:
        return ""
    series: dict[str, dict[float, float]] = {}
    for cell in known:
        name = _batch_rule(cell)
        series.setdefault(name, {})[float(cell.world)] = max(cell.speed, series.get(name, {}).get(cell.world, 0.0))
    lines = [
        Line(name, f"c{place}", sorted(points.items()), dots=True)
        for place, (name, points) in enumerate(sorted(series.items()), start=1)
    ]
    ideal = [Line(f"{line.label}, ideal", line.color, _ideal(line.points), dash="6 4") for line in lines[:1]]
    return line_chart(
        "Scaling", f"{sweep.counted}/s of all ranks", [*lines, *ideal], zero=True, wide=True, axis="ranks"
    )


def _ideal(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    (ranks, speed), *_ = points
    return [(at, speed * at / ranks) for at, _ in points]


def _batch_rule(cell: Cell) -> str:
    """Return what stays the same as ranks are added: the whole batch (strong) or that of each rank (weak)."""
    batch = cell.run.config.get("batch") if cell.run else None
    batch = batch if isinstance(batch, dict) else {}
    rule = "strong" if batch.get("global") is not None else "weak"
    return f"{rule}, stage {cell.stage}"


def largest(sweep: Sweep) -> str:
    """The largest model that finished at each stage; "so far" while one of the stage is running."""
    stages: dict[str, list[Cell]] = {}
    for cell in sweep.cells:
        if cell.run:
            stages.setdefault(f"stage {cell.stage}", []).append(cell)
    sizes = {cell.parameters for cells in stages.values() for cell in cells if cell.parameters}
    if len(sizes) < 2 and not sweep.conclusions:
        return ""
    bars = []
    for stage, cells in sorted(stages.items()):
        fitting = [cell.parameters for cell in cells if cell.status == "finished" and cell.parameters]
        if fitting:
            top = float(max(fitting))
            growing = any(cell.status == "running" for cell in cells)
            bars.append(Bar(stage, [("parameters", top)], format_count(top), "so far" if growing else ""))
    if not bars:
        return ""
    return bar_chart("Largest model that fits", escape("parameters of the model"), bars, {"parameters": "parameters"})
