"""Disks that fail: at a chosen call, by killing the process, or by forgetting what was not made durable."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

from zerokit.state.disk import Disk

CALLS = ("make_folder", "create", "write", "sync", "close", "sync_folder", "rename", "unlink", "remove_folder")
"""Every method of a disk: a test holds that there are no others."""


class CallingDisk(Disk):
    """Calls `before(number, name, arguments)` in front of every call, counted from 1."""

    def __init__(self, before: Any = None):
        self.calls: list[str] = []
        self.before = before or (lambda *_: None)


def _counted(name: str) -> Any:
    def call(self: CallingDisk, *arguments: Any) -> Any:
        self.calls.append(name)
        self.before(len(self.calls), name, arguments)
        return getattr(Disk, name)(self, *arguments)

    return call


for _name in CALLS:
    setattr(CallingDisk, _name, _counted(_name))


def killed_at(number: int) -> CallingDisk:
    """Ends this process by SIGKILL before call `number`; half of what a write was to write is written."""

    def before(count: int, name: str, arguments: tuple) -> None:
        if count == number:
            if name == "write":
                file, data = arguments
                os.write(file, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    return CallingDisk(before)


def failing_at(name: str, nth: int = 1, code: int = errno.ENOSPC) -> CallingDisk:
    """Raises OSError at the nth call of a kind and all later ones of the kind."""
    seen = [0]

    def before(_: int, called: str, arguments: tuple) -> None:
        if called == name:
            seen[0] += 1
            if seen[0] >= nth:
                raise OSError(code, os.strerror(code), str(arguments[0]))

    return CallingDisk(before)


class JournalDisk(Disk):
    """Notes every change, for `PowerLoss` to replay."""

    def __init__(self) -> None:
        self.journal: list[tuple] = []
        self._paths: dict[int, Path] = {}

    def make_folder(self, path: Path) -> None:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        super().make_folder(path)
        self.journal += [("folder", folder) for folder in reversed(missing)]

    def create(self, path: Path) -> int:
        file = super().create(path)
        self._paths[file] = path
        self.journal.append(("create", path))
        return file

    def write(self, file: int, data: memoryview) -> int:
        self.journal.append(("write", self._paths[file], bytes(data)))
        return super().write(file, data)

    def sync(self, file: int) -> None:
        super().sync(file)
        self.journal.append(("sync", self._paths[file]))

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.journal.append(("sync_folder", path))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.journal.append(("rename", source, target))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.journal.append(("unlink", path))

    def remove_folder(self, path: Path) -> None:
        super().remove_folder(path)
        self.journal.append(("unlink", path))


class Node:
    """A file or folder as it is, and as it would be after a power loss: bytes, or names of nodes."""

    def __init__(self, empty: Any):
        self.now, self.durable = empty, type(empty)()


class PowerLoss:
    """What is left of the folder `root` when the power goes after some entries of a journal.

    Contents that were not synced are lost. So are names made, moved and removed in folders that were not synced; or
    these survive (`names_survive`), as where a file system writes names before contents.
    """

    def __init__(self, root: Path, journal: list[tuple]):
        self._root, self._tree = root, Node({})
        for entry in journal:
            self._apply(*entry)

    def _node(self, path: Path) -> Node:
        node = self._tree
        for name in path.relative_to(self._root).parts:
            node = node.now[name]
        return node

    def _apply(self, kind: str, path: Path, value: Any = None) -> None:
        if not path.is_relative_to(self._root):  # a folder above, which stays
            return
        if kind in ("folder", "create"):
            self._node(path.parent).now[path.name] = Node({} if kind == "folder" else b"")
        elif kind == "write":
            self._node(path).now += value
        elif kind in ("sync", "sync_folder"):
            node = self._node(path)
            node.durable = dict(node.now) if kind == "sync_folder" else node.now
        elif kind == "rename":
            self._node(value.parent).now[value.name] = self._node(path.parent).now.pop(path.name)
        elif kind == "unlink":
            del self._node(path.parent).now[path.name]

    def write(self, folder: Path, names_survive: bool) -> None:
        """Build what is left in `folder`."""

        def build(node: Node, path: Path) -> None:
            if isinstance(node.now, bytes):
                path.write_bytes(node.durable)
                return
            path.mkdir(parents=True, exist_ok=True)
            for name, child in (node.now if names_survive else node.durable).items():
                build(child, path / name)

        build(self._tree, folder)
