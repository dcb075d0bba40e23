"""What an earlier run has left in a folder, moved out of the way of the next one. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from zerokit.record.summary import FILES, PREDICTION

FOLDER = "attempts"


def left_by_run(run_dir: Path) -> list[Path]:
    """The files and folders of a run in its folder, where others may lie too; not the lock of its job."""
    logs = FILES["logs"]
    found = [run_dir / name for name in (*FILES.values(), PREDICTION) if name != logs]
    found += [*(run_dir / logs).glob("rank*"), run_dir / logs / "launcher.log"]
    return [path for path in found if path.exists()]


def set_aside(run_dir: Path, paths: Iterable[Path]) -> Path | None:
    """Move paths below `run_dir` into the next of its folders `attempts/N`, and return that; None if there are none."""
    paths, attempts = list(paths), run_dir / FOLDER
    if not paths:
        return None
    place = attempts / str(1 + max((int(path.name) for path in attempts.glob("*") if path.name.isdigit()), default=0))
    for path in paths:
        target = place / path.relative_to(run_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return place
