"""The log of a rank."""

from __future__ import annotations

import logging
import sys
from pathlib import Path


def log_to(path: Path) -> None:
    """Let everything that this process logs from INFO on go to the file alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]  # Hydra's own handlers would write to the terminal
    root.setLevel(logging.INFO)


class LogFile(logging.FileHandler):
    """A line that finds no room on the disk is lost; `logging` would print a traceback for each."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
