"""The page around the sections."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from zerokit.record.metrics import printable
from zerokit.report.cells import Cell, Sweep
from zerokit.report.header import name
from zerokit.report.run import Run
from zerokit.report.sections import SECTIONS
from zerokit.report.sweep_sections import SECTIONS as SWEEP_SECTIONS
from zerokit.report.sweep_sections import View

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def render(run: Run) -> str:
    """Return the whole report of a run as one HTML document that loads nothing."""
    body = "\n".join(section(run) for section in SECTIONS)
    source = f"metrics.jsonl, summary.json and config.yaml of {run.directory.name}"
    return _page(f"{name(run)} · {run.status}", body, source)


def render_sweep(sweep: Sweep, baseline: Cell | None) -> str:
    """Return the report of a sweep in the same way.

    Args:
        sweep: its cells.
        baseline: the cell that the others are compared with.
    """
    body = "\n".join(section(View(sweep, baseline)) for section in SWEEP_SECTIONS)
    return _page(printable(sweep.directory.name), body, f"the files of each cell of {sweep.directory.name}")


def _page(title: str, body: str, source: str) -> str:
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
<body>
<main>
{body}
<footer>zerokit · made from {escape(source)}</footer>
</main>
<script>{script}</script>
</body>
</html>
"""
