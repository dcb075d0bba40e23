"""Files of documents, and sources of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zerokit.config.registry import Choice, build, options_type


def make(name: str, *files: Path, seed: int = 0, **options: Any):
    """The source that `data=NAME` with these files and options builds."""
    given = {"files": [str(file) for file in files], **options}
    return build("data", Choice(name, options_type("data", name)(**given)), seed=seed)


def jsonl(path: Path, rows: list[Any]) -> Path:
    """A file with a row in each line; text as it is, everything else as JSON."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path
