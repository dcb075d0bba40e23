"""The page around the sections."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from zerokit.report.header import name
from zerokit.report.run import Run
from zerokit.report.sections import SECTIONS

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def render(run: Run) -> str:
    """Return the whole report as one HTML document that loads nothing."""
    folder = files("zerokit.report")
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = (folder / "page.js").read_text(encoding="utf-8")
    body = "\n".join(section(run) for section in SECTIONS)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="color-scheme" content="light dark">
<title>{escape(name(run))} · {escape(run.status)} · zerokit</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
<footer>zerokit · made from metrics.jsonl, summary.json and config.yaml of {escape(run.directory.name)}</footer>
</main>
<script>{script}</script>
</body>
</html>
"""
