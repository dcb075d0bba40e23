"""The top of the report: what ran, how it ended, and with which choices."""

from __future__ import annotations

import os
import stat
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

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
TAIL = 4096
"""Bytes at the end of a log that are read."""
TAIL_LINES = 12
TAILS = 4
"""Logs whose end is shown."""


def header(run: Run) -> str:
    """Return status, name, command, choices and versions."""
    status = run.status
    badge = f'<span class="badge {escape(status)}">{MARKS.get(status, "·")} {escape(status)}</span>'
    started = _moment(run.summary.get("started"))
    command = run.summary.get("command")
    return f"""<header>
<p class="over">{badge}{f"<span>{escape(started)}</span>" if started else ""}</p>
<h1>{escape(name(run))}</h1>
{_ending(run)}{_chips(run)}{_links(run)}
{f"<pre class='command'>{escape(printable(str(command)))}</pre>" if command else ""}
</header>"""


def name(run: Run) -> str:
    """Return what the run is called: the name it was given, else its model, else its folder."""
    given = (run.config.get("run") or {}).get("name") if isinstance(run.config.get("run"), dict) else None
    return str(given or run.section("model").get("name") or run.choice("model") or run.directory.name)


def told_apart(run: Run) -> list[str]:
    """Return what tells a run from others of its name: stage, data, device, host, folder, as far as they are known."""
    stage = _stage(run)
    ranks = run.summary.get("world_size")
    device = f"{ranks} × {run.device}" if ranks and run.device else run.device
    known = [f"stage {stage}" if stage is not None else None, run.choice("data"), device, run.summary.get("host")]
    folder = None if name(run) == run.directory.name else run.directory.name
    return [printable(str(word)) for word in (*known, folder) if word]


def _stage(run: Run) -> Any:
    zero = run.config.get("zero") if isinstance(run.config.get("zero"), dict) else run.section("zero")
    return zero.get("stage")


def _links(run: Run) -> str:
    """Return links to the sweep that the run is a cell of and to its page at the tracker."""
    links = []
    if (run.directory.parent / "sweep.json").is_file():
        links.append(f'<a href="../report.html">the sweep {escape(printable(run.directory.parent.name))}</a>')
    url = run.summary.get("tracker_url")
    if isinstance(url, str) and url.startswith(("https://", "http://")):
        links.append(f'<a href="{escape(url)}">the run at its tracker</a>')
    elif (run.directory / "wandb").is_dir():
        links.append("W&amp;B: recorded offline, <code>wandb sync</code> uploads it")
    return f'<p class="links">{" · ".join(links)}</p>' if links else ""


def _tails(run: Run) -> str:
    """Return the last lines of the logs of ranks, the launcher's and those that say most first."""
    logs = [path for path in sorted((run.directory / "logs").glob("*")) if path.suffix in (".log", ".err")]
    texts = [(path, text) for path in logs if (text := _tail(path))]
    texts.sort(key=lambda found: ("Error" not in found[1], found[0].name))
    blocks = "".join(
        f"<details{' open' if place == 0 else ''}><summary>the end of logs/{escape(printable(path.name))}</summary>"
        f"<pre>{escape(text)}</pre></details>"
        for place, (path, text) in enumerate(texts[:TAILS])
    )
    return blocks or LOGS


def _tail(path: Path) -> str:
    """Return the last lines of a file; nothing of a link, of what is no file, or cannot be read."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return ""
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    lines = lines[1:] if size > TAIL else lines
    return "\n".join(printable(line) for line in lines[-TAIL_LINES:]).strip()


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
    return f'<div class="ending {escape(run.status)}">{cause}<p>{escape(advice(run.summary))}</p>{_tails(run)}</div>'


def _chips(run: Run) -> str:
    chips = []
    model = run.section("model")
    if model.get("parameters"):
        chips.append(("parameters", format_count(model["parameters"])))
    if (stage := _stage(run)) is not None:
        chips.append(("ZeRO stage", str(stage)))
    if run.summary.get("world_size"):
        chips.append(("ranks", f"{run.summary['world_size']} × {run.summary.get('device', 'device')}"))
    chips += [(group, choice) for group in CHOICES if (choice := run.choice(group))]
    host = run.summary.get("host")
    chips += [("host", printable(str(host)))] if host else []
    chips.append(("folder", printable(run.directory.name)))
    items = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in chips)
    return f'<dl class="chips">{items}</dl>' if items else ""
