"""The one place from which zerokit changes a state folder, so that tests can fail or end a process at every call."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class Disk:
    """Thin calls of the operating system; each either happens or raises OSError."""

    def make_folder(self, path: Path) -> None:
        """Make a folder, and those above it; it may be there."""
        path.mkdir(parents=True, exist_ok=True)

    def create(self, path: Path) -> int:
        """Open a new file for writing and return its descriptor; follows no link and overwrites nothing."""
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o644)

    def write(self, file: int, data: memoryview) -> int:
        """Write a part of `data` and return how many bytes."""
        return os.write(file, data)

    def sync(self, file: int) -> None:
        """Wait until what was written to the file is durable."""
        os.fsync(file)

    def close(self, file: int) -> None:
        """Close a file."""
        os.close(file)

    def sync_folder(self, path: Path) -> None:
        """Wait until names made, moved and removed in the folder are durable."""
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a folder its name in one step; fails if there is something of this name."""
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file or a link."""
        os.unlink(path)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        os.rmdir(path)


def write_all(disk: Disk, file: int, data: memoryview) -> None:
    """Write the whole of `data`."""
    while len(data):
        data = data[disk.write(file, data) :]


def remove_tree(disk: Disk, path: Path) -> None:
    """Remove a folder and all it holds, following no link; fine if it is not there."""
    if path.is_symlink() or path.is_file():
        disk.unlink(path)
        return
    if not path.exists():
        return
    for entry in sorted(path.iterdir()):
        remove_tree(disk, entry)
    disk.remove_folder(path)


def make_durable_folder(disk: Disk, path: Path) -> None:
    """Make a folder and those above it, each name durable."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    if missing:
        disk.make_folder(path)
    for folder in reversed(missing):
        disk.sync_folder(folder.parent)


def make_name_durable(disk: Disk, path: Path) -> None:
    """Make the name of a folder durable, and those of the folders above it that this user may open: whoever made them
    may not have."""
    for folder in Path(path).absolute().parents:
        with suppress(OSError):
            disk.sync_folder(folder)
