"""The tables of the report: key figures, the config, and the logged values for those who do not see the charts."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from zerokit.record.metrics import GIB, format_bytes, format_count, format_seconds, printable
from zerokit.report.chart import format_value
from zerokit.report.run import STATES, Run

MAX_ROWS = 60
COLUMNS = {
    "train/loss": "loss",
    "train/bits_per_byte": "bits/byte",
    "eval/loss": "held-out loss",
    "eval/bits_per_byte": "held-out bits/byte",
    "optim/lr": "learning rate",
    "train/grad_norm": "gradient norm",
    "perf/tokens_per_sec": "",  # what a run counts
    "memory/max_allocated_gib": "memory GiB",
}


def key_figures(run: Run) -> str:
    """Return the figures a run is judged by, large, and the details below them."""
    large = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(figure)}</dd><dd>{escape(note)}</dd></div>"
        for label, figure, note in _large(run)
    )
    details = _pairs("Details", _details(run))
    return f'<section id="figures"><dl class="large">{large}</dl>{details}</section>' if large or details else ""


def config_table(run: Run) -> str:
    """Return the config, one row per key."""
    options = _pairs("All options", _flat(run.config))
    return f'<section id="config"><h2>Config</h2>{options}</section>' if options else ""


def data_table(run: Run) -> str:
    """Return the logged values as a table, at most `MAX_ROWS` rows evenly over the run, always with the last."""
    series = {name: dict(run.series(name)) for name in COLUMNS}
    columns = [name for name in COLUMNS if series[name]]
    steps = sorted({step for name in columns for step in series[name]})
    if not steps:
        return ""
    every = -(-len(steps) // MAX_ROWS)
    shown = steps[::-1][::every][::-1]
    titles = COLUMNS | {"perf/tokens_per_sec": f"{run.counted}/s"}
    head = "".join(f"<th scope='col'>{escape(titles[name])}</th>" for name in columns)
    body = "".join(_row(step, [_cell(name, series[name].get(step)) for name in columns]) for step in shown)
    note = f"One in {every} of the {len(steps)} logged steps; all are" if every > 1 else "The same values are"
    return f"""<section id="data"><h2>Data</h2><details><summary>Logged values</summary>
<p>{note} in metrics.jsonl.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Logged values"><table>
<thead><tr><th scope="col">step</th>{head}</tr></thead>
<tbody>{body}</tbody></table></div></details></section>"""


def _large(run: Run) -> list[tuple[str, str, str]]:
    """Return (label, figure, note)."""
    found = [_finite(run, _loss(run))]
    speed = run.summary.get("tokens_per_sec") or run.last("perf/tokens_per_sec")
    if speed:
        each = run.summary.get("tokens_per_sec_per_gpu") or run.last("perf/tokens_per_sec_per_gpu")
        found.append((f"{run.counted}/s", format_count(speed), f"{format_count(each)} per rank" if each else ""))
    peak = _peak(run)
    if peak:
        found.append(_memory(run, peak))
    if run.summary.get("seconds") is not None:
        found.append(("time", format_seconds(run.summary["seconds"]), f"{run.summary.get('steps', 0)} steps"))
    elif run.rows:
        found.append(("steps so far", f"{run.rows[-1].get('trainer/step', 0)}", _planned(run)))
    return [row for row in found if row is not None]


def _loss(run: Run) -> tuple[str, str, str] | None:
    bits = run.section("bits_per_byte")
    held_out = bits.get("validation") or run.last("eval/bits_per_byte")
    last = bits.get("last") or run.last("train/bits_per_byte")
    if last is not None:
        first = bits.get("first") or run.series("train/bits_per_byte")[0][1]
        note = f"training {format_value(first)} → {format_value(last)}"
        if held_out is not None:
            return "bits per byte, held out", format_value(held_out), note
        return "bits per byte", format_value(last), note
    last = run.summary.get("loss") if run.summary.get("loss") is not None else run.last("train/loss")
    if last is None:
        return None
    first = run.summary.get("loss_first")
    unit = str(run.summary.get("loss_unit") or "")
    held_out = run.last("eval/loss")
    notes = [f"from {format_value(first)}"] if first is not None else []
    notes += [f"held out {format_value(held_out)}"] if held_out is not None else []
    return f"loss {unit}".strip(), format_value(last), ", ".join(notes)


def _finite(run: Run, figure: tuple[str, str, str] | None) -> tuple[str, str, str] | None:
    """Say of a loss that is the last finite one that it has not been the last."""
    since = run.broken("train/loss")
    if figure is None or since is None:
        return figure
    label, value, note = figure
    return label, value, "; ".join(filter(None, (note, f"not finite from step {since:g} on")))


def _peak(run: Run) -> float | None:
    gib = max(run.numbers("max_allocated_gib"), default=0) or run.last("memory/max_allocated_gib")
    return gib * GIB if gib else None


def _memory(run: Run, peak: float) -> tuple[str, str, str]:
    """The peak of the fullest rank; on a CPU the model's states come first, as a process grows by much else."""
    states = max((sum(row[kind] for kind in STATES) for row in run.memory), default=0.0)
    whole = run.section("stage0").get("total")
    mine, at_stage0, grown = (_together(size or 0.0) for size in (states, whole, peak))
    beside = f"{at_stage0} at stage\N{NO-BREAK SPACE}0" if whole and states else ""
    if run.device == "cpu" and states:
        note = ", ".join(filter(None, (beside, f"the process grew by {grown}")))
        return "model states per rank", format_bytes(states), note
    return "peak memory per rank", format_bytes(peak), f"model states {mine}, {beside}" if beside else ""


def _together(size: float) -> str:
    return format_bytes(size).replace(" ", "\N{NO-BREAK SPACE}")


def _planned(run: Run) -> str:
    train = run.config.get("train")
    return f"of {train['steps']}" if isinstance(train, dict) and "steps" in train else ""


def _details(run: Run) -> list[tuple[str, str]]:
    summary = run.summary
    versions = ", ".join(f"{name} {version}" for name, version in run.section("versions").items())
    predicted = summary.get("predicted_gib")
    rows = [
        (run.counted, format_count(summary["tokens"]) if summary.get("tokens") else None),
        ("choice", " ".join(map(str, run.items("why"))) or None),
        ("skipped steps", summary.get("skipped_steps")),
        ("predicted memory", format_bytes(predicted * GIB) if predicted else None),
        ("versions", versions or None),
        ("commit", summary.get("commit")),
        ("sha256 of the weights", summary.get("weights_sha256")),
        ("sha256 of the data", summary.get("data_sha256")),
        ("folder", run.directory.name),
    ]
    return [(label, printable(str(value))) for label, value in rows if value is not None] if summary else []


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", "null" if value is None else printable(str(value))))
    return rows


def _pairs(summary: str, rows: list[tuple[str, str]]) -> str:
    """Return a folded table of two columns."""
    body = "".join(f"<tr><th scope='row'>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows)
    return f'<details><summary>{summary}</summary><table class="pairs">{body}</table></details>' if rows else ""


def _row(step: float, cells: list[str]) -> str:
    return f"<tr><th scope='row'>{step:g}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return format_count(value) if name == "perf/tokens_per_sec" and not math.isnan(value) else format_value(value)
