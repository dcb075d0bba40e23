"""Writing a state: every rank its file, then rank 0 the manifest, then the name that makes it one.

[Note: the commit] Everything is written into `NAME.tmp-…` and made durable: the files, the manifest with their lengths
and digests, the folder. Then the folder is renamed and its parent made durable. So a state of the right name is whole,
whatever happens at whatever time, and one that is there is never written to. Ranks agree after each phase, so that an
error of one is an error of all, and then the temporary folder is removed.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash

from zerokit import __version__
from zerokit.comm.exchange import Exchange
from zerokit.state.disk import Disk, make_durable_folder, remove_tree, write_all
from zerokit.state.errors import StateError
from zerokit.state.folder import TEMPORARY
from zerokit.state.manifest import NAME, FileFacts, Manifest, Part, TensorFacts, check_cover
from zerokit.state.rankfile import RankFile, file_name


def save_state(
    target: Path,
    file: RankFile,
    stream: Callable[[], Iterable[memoryview]],
    exchange: Exchange,
    facts: dict[str, Any],
    user: Any = None,
    disk: Disk | None = None,
) -> None:
    """Write the state `target`. A collective.

    file: this rank's pieces; stream: the bytes of its file. facts, user: JSON values for the manifest, rank 0's count.

    Raises:
        StateError: a rank could not write, or there is something of that name; nothing is left behind.
    """
    disk, target = disk or Disk(), Path(target).absolute()
    draft = target.with_name(f"{target.name}{TEMPORARY}{exchange.first(uuid.uuid4().hex[:8])}")
    try:
        _agree(exchange, target, lambda: _begin(disk, target, draft) if exchange.rank == 0 else None)
        path = draft / file_name(exchange.rank, exchange.world)
        rows = _agree(exchange, target, lambda: [_write_file(disk, path, stream()), file.describe()])
        _agree(
            exchange, target, lambda: _commit(disk, target, draft, rows, facts, user) if exchange.rank == 0 else None
        )
    except BaseException:
        if exchange.rank == 0:
            with contextlib.suppress(OSError):
                remove_tree(disk, draft)
        raise


def check_json(user: Any) -> None:
    """Raise ValueError for what a manifest cannot hold."""
    try:
        json.dumps(user, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Values saved with a state must be JSON (texts, numbers, lists): {error}.") from None


def _agree(exchange: Exchange, target: Path, work: Callable[[], Any]) -> list[Any]:
    """Do this rank's work and return what the work of every rank gave; one rank's error is raised on all."""
    try:
        message = [work(), None]
    except (OSError, StateError) as error:
        message = [None, f"{type(error).__name__}: {error}" if isinstance(error, OSError) else str(error)]
    messages = exchange.gather(message)
    for rank, (_, error) in enumerate(messages):
        if error is not None:
            raise StateError(f"{target} could not be saved, rank {rank}: {error}")
    return [value for value, _ in messages]


def _begin(disk: Disk, target: Path, draft: Path) -> None:
    if target.exists() or target.is_symlink():
        raise StateError(f"{target} exists, and a state is never overwritten: choose another name or remove it.")
    make_durable_folder(disk, target.parent)
    disk.make_folder(draft)


def _write_file(disk: Disk, path: Path, stream: Iterable[memoryview]) -> dict[str, Any]:
    if not path.parent.is_dir():
        raise StateError(
            f"{path.parent}, which rank 0 made, is not there: all hosts must see the same folder (hydra.run.dir)."
        )
    digest, length = xxhash.xxh3_128(), 0
    descriptor = disk.create(path)
    try:
        with ThreadPoolExecutor(1, "zerokit digest") as beside:  # of the write: neither holds the interpreter
            for data in stream:
                hashed = beside.submit(digest.update, data)
                write_all(disk, descriptor, data)
                hashed.result()
                length += len(data)
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)
    return asdict(FileFacts(path.name, length, digest.hexdigest()))


def _commit(disk: Disk, target: Path, draft: Path, rows: list[Any], facts: dict[str, Any], user: Any) -> None:
    made = {"saved": datetime.now(UTC).isoformat(timespec="seconds"), "world": len(rows), **_versions()}
    tensors = _tensors([described for _, described in rows])
    manifest = Manifest(tuple(FileFacts(**row) for row, _ in rows), tensors, {**made, **facts}, user)
    for name, tensor in tensors.items():
        check_cover(name, tensor, len(rows), str(target))
    descriptor = disk.create(draft / NAME)
    try:
        write_all(disk, descriptor, memoryview(manifest.encode()))
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)
    disk.sync_folder(draft)
    disk.rename(draft, target)
    disk.sync_folder(target.parent)


def _versions() -> dict[str, str]:
    return {"zerokit": __version__, "torch": version("torch")}


def _tensors(described: list[list[Any]]) -> dict[str, TensorFacts]:
    parts: dict[str, list[Part]] = {}
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file, rows in enumerate(described):
        for name, dtype, shape, start, stop in rows:
            kind = (dtype, tuple(shape))
            if kinds.setdefault(name, kind) != kind:
                raise StateError(f"'{name}' is {kind} on rank {file} and {kinds[name]} on another.")
            parts.setdefault(name, []).append(Part(file, start, stop))
    return {
        name: TensorFacts(*kinds[name], tuple(sorted(found, key=lambda part: part.start)))
        for name, found in parts.items()
    }
