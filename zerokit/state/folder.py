"""The states of a run: `step-00000200/` and so on in one folder. Imports no torch."""

from __future__ import annotations

import contextlib
import re
import uuid
from pathlib import Path
from typing import NamedTuple

from zerokit.config.errors import ConfigError
from zerokit.state.disk import Disk, remove_tree
from zerokit.state.errors import StateError
from zerokit.state.manifest import NAME, read_manifest

FOLDER = "state"
"""Where a run keeps its states, in its output folder."""
TEMPORARY = ".tmp-"
DAMAGED = ".damaged-"
_STEP = re.compile(r"step-(\d{8,18})")


class Saved(NamedTuple):
    """A state by its name; whether it is sound is for the reader to find out."""

    step: int
    path: Path


def step_path(root: Path, step: int) -> Path:
    """Where the state of a step lies."""
    return Path(root) / f"step-{step:08d}"


def saved_states(root: Path) -> list[Saved]:
    """The states in a folder by their names, newest first."""
    root = Path(root)
    if not root.is_dir():
        return []
    named = [(match, path) for path in root.iterdir() if (match := _STEP.fullmatch(path.name))]
    found = [Saved(int(match[1]), path) for match, path in named if path.is_dir() and not path.is_symlink()]
    return sorted(found, reverse=True)


def states_at(path: Path) -> list[Path]:
    """The states that a path names, newest first: itself, those in it, or those of the run whose folder it is."""
    if (Path(path) / NAME).exists():
        return [Path(path)]
    return [saved.path for folder in (path, Path(path) / FOLDER) for saved in saved_states(folder)]


def given_states(path: str, key: str = "") -> list[Path]:
    """`states_at` a path that somebody gave, as the value of `key=` if that is not empty.

    Raises:
        ConfigError: there is no state, or no such folder.
    """
    if found := states_at(Path(path)):
        return found
    lacking = "found none there" if Path(path).exists() else "but there is no such folder"
    raise ConfigError(f"{key}{path}: expected a state or the output folder of a run with states, {lacking}.")


def remove_leftovers(root: Path, disk: Disk | None = None) -> list[str]:
    """Remove what saves that were cut short have left; return the names. Nobody may be saving into `root`."""
    root = Path(root)
    stale = [path for path in sorted(root.iterdir()) if TEMPORARY in path.name] if root.is_dir() else []
    for path in stale:
        remove_tree(disk or Disk(), path)
    return [path.name for path in stale]


def set_aside(path: Path, disk: Disk | None = None) -> Path:
    """Rename a damaged state, so that its step can be saved again; return the new path."""
    aside = path.with_name(f"{path.name}{DAMAGED}{uuid.uuid4().hex[:8]}")
    (disk or Disk()).rename(path, aside)
    return aside


def purge(root: Path, keep: int, newest: int, disk: Disk | None = None, best: int | None = None) -> list[int]:
    """Remove all states but the `keep` newest up to step `newest`, which has been verified; and damaged ones. That of
    step `best` stays and is not counted.

    A state loses its name before its files, so that none is ever incomplete. States that do not read as sound do not
    count among those kept. Returns the steps removed.
    """
    disk = disk or Disk()
    sound = [saved for saved in saved_states(root) if saved.step <= newest and _reads(saved.path)]
    old = [saved for saved in sound if saved.step != best][keep:]
    for saved in old:
        doomed = saved.path.with_name(f"{saved.path.name}{TEMPORARY}{uuid.uuid4().hex[:8]}")
        disk.rename(saved.path, doomed)
        remove_tree(disk, doomed)
    for path in Path(root).iterdir():
        if DAMAGED in path.name:
            remove_tree(disk, path)
    return [saved.step for saved in old]


def _reads(path: Path) -> bool:
    with contextlib.suppress(StateError, OSError):
        read_manifest(path)
        return True
    return False
