"""sweep.json: what the folders of the cells cannot tell, such as which cells there are; and one sweep at a time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zerokit.config.errors import ConfigError
from zerokit.config.files import refuse_links, remove_drafts, replace_text
from zerokit.sweep.cell import Cell

NAME = "sweep.json"
LOCK = ".lock"


def write(folder: Path, command: str, cells: Iterable[Cell], conclusions: Iterable[str] = ()) -> None:
    """Replace sweep.json in one move."""
    values = {"command": command, "cells": [_cell(cell, folder) for cell in cells], "conclusions": list(conclusions)}
    replace_text(folder / NAME, json.dumps(values, indent=2) + "\n")


def lock(folder: Path) -> int:
    """Keep the folder for this process and those it forks, until the last of them has ended; return the open file.

    Raises:
        ConfigError: if another process has it.
    """
    refuse_links(folder)
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(file, 32).decode() or "unknown"
        os.close(file)
        raise ConfigError(
            f"This sweep is running already in {folder} (process {holder}). Wait for it, or give hydra.sweep.dir=DIR."
        ) from None
    remove_drafts(folder)
    os.truncate(file, 0)
    os.write(file, str(os.getpid()).encode())
    return file


def _cell(cell: Cell, folder: Path) -> dict[str, Any]:
    return {
        "folder": os.path.relpath(cell.folder, folder),
        "label": cell.label,
        "words": cell.words,
        "state": cell.state.value,
        "reason": cell.reason,
        "predicted_gib": cell.predicted_gib,
    }
