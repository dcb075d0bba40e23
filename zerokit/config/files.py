"""Files that people and runs leave: those of data, and small JSON and YAML files, perhaps half written."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import Any

import yaml

from zerokit.config.errors import ConfigError

log = logging.getLogger(__name__)


def read_mapping(path: Path, parse: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    """The mapping in a file, by `json.loads` or `yaml.safe_load`; empty if there is no such file, and with a warning if
    it cannot be read."""
    if not path.is_file():
        return {}
    try:
        values = parse(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:  # it was removed just now
        return {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as problem:
        _warn(path.absolute(), path, (str(problem) or type(problem).__name__).splitlines()[0])
        return {}
    if not isinstance(values, dict):
        _warn(path.absolute(), path, f"expected keys with values, found {type(values).__name__}")
        return {}
    return values


@lru_cache
def _warn(_: Path, path: Path, problem: str) -> None:
    """Once for each file and problem: tables of a sweep read the files of its cells again and again."""
    log.warning("%s was left out: %s", path, problem)


def matching_files(key: str, patterns: list[str]) -> list[Path]:
    """Files that `patterns` (paths or globs, `**` and `~` allowed), the value of `key`, name, sorted, each once.

    Raises:
        ConfigError: one of them names no file.
    """
    found: set[Path] = set()
    for pattern in patterns:
        paths = [Path(match) for match in glob(str(Path(pattern).expanduser()), recursive=True)]
        files = [path for path in paths if path.is_file()]
        if not files:
            hint = f"that is a folder: use {pattern.rstrip('/')}/**/*.txt" if paths else f"looked from {Path.cwd()}"
            raise ConfigError(f"{key}: no file matches {pattern!r} ({hint}).")
        found.update(path.resolve() for path in files)
    return sorted(found)
