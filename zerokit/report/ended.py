"""How a run ended, in its summary and its report, as those write it who are left of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from zerokit.record.summary import read_summary, write_summary
from zerokit.report import try_report

log = logging.getLogger(__name__)


def mark_ended(run_dir: Path, status: str, error: str, known: dict[str, Any] | None = None) -> None:
    """Record in a run's files how it ended (`failed` or `interrupted`) and why; rank 0 may have been ended before it
    could, or knows only that another rank is gone. Where they cannot be written, as on a full disk, a warning says so:
    that must not take the place of the error itself. A folder that somebody has removed is not made again.

    known: the rest of the summary, if it is not that in the file.
    """
    if not run_dir.is_dir():
        return
    try:
        write_summary(run_dir, (known or read_summary(run_dir)) | {"status": status, "error": error})
    except OSError as problem:
        log.warning("%s does not say how the run ended: %s", run_dir / "summary.json", problem.strerror)
    try_report(run_dir)
