"""The page around the sections."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from zerokit.record.metrics import printable
from zerokit.report.cells import Cell, Sweep
from zerokit.report.header import name, told_apart
from zerokit.report.run import Run
from zerokit.report.sections import SECTIONS
from zerokit.report.sweep_sections import SECTIONS as SWEEP_SECTIONS
from zerokit.report.sweep_sections import View

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
LIVE = 15
"""Seconds after which the page of a run that goes on is read again."""


def render(run: Run) -> str:
    """Return the whole report of a run as one HTML document that loads nothing."""
    body = "\n".join(section(run) for section in SECTIONS)
    source = f"metrics.jsonl, summary.json and config.yaml of {run.directory.name}"
    live = LIVE if run.goes_on else None
    return _page(" · ".join([name(run), *told_apart(run), run.status]), body, source, live)


def render_sweep(sweep: Sweep, baseline: Cell | None) -> str:
    """Return the report of a sweep in the same way.

    Args:
        sweep: its cells.
        baseline: the cell that the others are compared with.
    """
    body = "\n".join(section(View(sweep, baseline)) for section in SWEEP_SECTIONS)
    live = LIVE if any(cell.status in ("running", "waiting") for cell in sweep.cells) else None
    title = printable(f"{sweep.directory.name} · {len(sweep.cells)} cells")
    return _page(title, body, f"the files of each cell of {sweep.directory.name}", live)


def _page(title: str, body: str, source: str, live: int | None) -> str:
    folder = files("zerokit.report")
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = (folder / "page.js").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="color-scheme" content="light dark">
<title>{escape(title)} · zerokit</title>
<style>{style}</style>
</head>
<body{f' data-live="{live}"' if live else ""}>
<main>
{body}
<footer>zerokit · made from {escape(source)}</footer>
</main>
<script>{script}</script>
</body>
</html>
"""
