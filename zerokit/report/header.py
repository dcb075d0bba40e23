"""The top of the report: what ran, how it ended, and with which choices."""

from __future__ import annotations

from datetime import datetime
from html import escape

from zerokit.record.advice import advice
from zerokit.record.metrics import format_count, printable
from zerokit.report.run import Run

MARKS = {
    "finished": "✓",
    "failed": "✕",
    "interrupted": "‖",
    "unfinished": "…",
    "running": "…",
    "too large": "⤢",
}
LOGS = "<p>Logs, one of each rank: logs/</p>"
CHOICES = ("precision", "optimizer", "scheduler", "checkpointing", "data")


def header(run: Run) -> str:
    """Return status, name, command, choices and versions."""
    status = run.status
    badge = f'<span class="badge {escape(status)}">{MARKS.get(status, "·")} {escape(status)}</span>'
    started = _moment(run.summary.get("started"))
    command = run.summary.get("command")
    return f"""<header>
<p class="over">{badge}{f"<span>{escape(started)}</span>" if started else ""}</p>
<h1>{escape(name(run))}</h1>
{_ending(run)}{_chips(run)}
{f"<pre class='command'>{escape(printable(str(command)))}</pre>" if command else ""}
</header>"""


def name(run: Run) -> str:
    """Return what the run is called: the name it was given, else its model, else its folder."""
    given = (run.config.get("run") or {}).get("name") if isinstance(run.config.get("run"), dict) else None
    return str(given or run.section("model").get("name") or run.choice("model") or run.directory.name)


def _moment(text: object) -> str:
    """Return a time in ISO 8601 as people write it; anything else as it is."""
    try:
        return datetime.fromisoformat(str(text)).strftime("%Y-%m-%d %H:%M %Z").strip() if text else ""
    except ValueError:
        return printable(str(text))


def _ending(run: Run) -> str:
    if run.goes_on:
        return (
            '<div class="ending"><p>The run is still going on, or ended without writing its summary. '
            "What follows comes from the steps logged so far.</p></div>"
        )
    if run.status == "finished":
        return ""
    error = run.summary.get("error")
    cause = f"<p><b>{escape(printable(str(error)))}</b></p>" if error else ""
    return f'<div class="ending {escape(run.status)}">{cause}<p>{escape(advice(run.summary))}</p>{LOGS}</div>'


def _chips(run: Run) -> str:
    chips = []
    model = run.section("model")
    if model.get("parameters"):
        chips.append(("parameters", format_count(model["parameters"])))
    zero = run.config.get("zero") if isinstance(run.config.get("zero"), dict) else run.section("zero")
    if "stage" in zero:
        chips.append(("ZeRO stage", str(zero["stage"])))
    if run.summary.get("world_size"):
        chips.append(("ranks", f"{run.summary['world_size']} × {run.summary.get('device', 'device')}"))
    chips += [(group, choice) for group in CHOICES if (choice := run.choice(group))]
    items = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in chips)
    return f'<dl class="chips">{items}</dl>' if items else ""
