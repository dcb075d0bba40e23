"""The output folder of a run, which somebody may remove or move while the run writes into it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

LOOK_S = 1.0
"""Seconds between two looks; the second one in a row that misses the folder counts."""
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class FolderWatch:
    """Knows a folder by what it is, whatever becomes of its path; use it as a context."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        self._itself = os.fstat(self._descriptor)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> FolderWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(LOOK_S)
        if self._thread is None or not self._thread.is_alive():
            os.close(self._descriptor)

    def start(self, on_gone: Callable[[], None]) -> None:
        """Call `on_gone`, once, when the path leads to the folder no longer.

        A thread of its own looks, since a file system that does not answer holds whoever asks.
        """
        self._thread = threading.Thread(target=self._watch, args=(on_gone,), name="folder", daemon=True)
        self._thread.start()

    def now(self) -> Path | None:
        """Where the folder is; None if it has been removed."""
        if self._is_at(self._folder):
            return self._folder
        try:
            moved = Path(os.readlink(f"/proc/self/fd/{self._descriptor}"))
        except OSError:
            return None
        return moved if moved.is_dir() and self._is_at(moved) else None

    def _watch(self, on_gone: Callable[[], None]) -> None:
        missed = 0
        while missed < 2:
            if self._over.wait(LOOK_S):
                return
            missed = 0 if self._is_at(self._folder) else missed + 1
        on_gone()

    def _is_at(self, path: Path) -> bool:
        try:
            return os.path.samestat(os.stat(path), self._itself)
        except OSError as error:
            return error.errno not in GONE
