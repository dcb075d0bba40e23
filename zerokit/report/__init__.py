"""report.html: a run in pictures, made from the files it left and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from zerokit.report.page import render
from zerokit.report.run import load_run

__all__ = ["write_report"]


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` into the folder of a run, from its metrics.jsonl, summary.json and config.yaml.

    Works while the run goes on and after a crash: files that are missing or cut leave their part of the page out.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError: if the folder does not exist or holds none of the three files.
    """
    directory = Path(run_dir)
    path = directory / "report.html"
    draft = directory / f".report-{os.getpid()}.html"
    draft.write_text(render(load_run(directory)), encoding="utf-8")
    draft.replace(path)
    return path
