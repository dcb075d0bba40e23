"""report.html: a run, or a sweep, in pictures, made from the files it left and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

from zerokit.config.files import replace_text
from zerokit.report.cells import is_sweep, load_sweep
from zerokit.report.page import render, render_sweep
from zerokit.report.rows import markdown
from zerokit.report.run import load_run

__all__ = ["try_report", "write_report"]

log = logging.getLogger(__name__)


def write_report(folder: str | Path, baseline: str | None = None) -> Path:
    """Write `report.html` into the folder of a run or of a sweep, for a sweep also `report.md`.

    Works while it goes on and after a crash: files that are missing or cut leave their part of the page out.

    Args:
        folder: of a run, with metrics.jsonl, summary.json or config.yaml; or of a sweep, with such folders in it.
        baseline: number, label or folder of the cell that the others are compared with; default the first that
            finished.

    Returns:
        The path of the page.

    Raises:
        ConfigError: if the folder holds neither, or there is no such baseline.
    """
    directory = Path(folder)
    if not is_sweep(directory):
        return _replace(directory / "report.html", render(load_run(directory)))
    sweep = load_sweep(directory)
    base = sweep.baseline(baseline)
    _replace(directory / "report.md", markdown(sweep, base))
    return _replace(directory / "report.html", render_sweep(sweep, base))


def try_report(folder: str | Path, level: int = logging.WARNING) -> Path | None:
    """As `write_report`, of a run or sweep, which does not depend on it: an error is one line in the log."""
    try:
        return write_report(folder)
    except Exception as problem:
        told = str(problem).partition("\n")[0]
        text = "no report: %s: %s. Try `zerokit report %s`."
        log.log(level, text, type(problem).__name__, told, folder, exc_info=True)
        return None


def _replace(path: Path, text: str) -> Path:
    replace_text(path, text)
    return path
