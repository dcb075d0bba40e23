"""The log of a rank."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from zerokit.config.terminal import complain


def log_to(path: Path) -> None:
    """Let everything that this process logs from INFO on go to the file alone; if it cannot be opened, one line on
    standard error says so."""
    root = logging.getLogger()
    root.handlers[:] = []  # Hydra's own handlers would write to the terminal
    root.setLevel(logging.INFO)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = LogFile(path, encoding="utf-8")
    except OSError as error:
        root.addHandler(logging.NullHandler())
        complain(f"warning: there is no log: {path}: {error.strerror}.")
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)


class LogFile(logging.FileHandler):
    """A line that finds no room on the disk is lost; `logging` would print a traceback for each."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), (OSError, ValueError)):
            super().handleError(record)
