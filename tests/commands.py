"""Runs commands as a user does: in a process of their own, in another folder than the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "HYDRA_FULL_ERROR")


def environment() -> dict[str, str]:
    """This process's environment with the checkout on the import path and no launcher around."""
    env = {key: value for key, value in os.environ.items() if key not in OUTSIDE}
    return env | {"PYTHONPATH": str(ROOT)}


def python(*words: str, cwd: Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run this Python with the given words, in the folder `cwd`."""
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout
    )


def zerokit(*words: str, cwd: Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run `python -m zerokit` with the given words, in the folder `cwd`."""
    return python("-m", "zerokit", *words, cwd=cwd, timeout=timeout)
