"""Folders of prepared data that all processes of a host share: made once, named by what they are made of, checked.

They lie in `$ZEROKIT_CACHE`, or in `zerokit` of the user's cache folder. One process makes a folder while the others
wait; it gets its name when it is whole. What is cut, changed or of something else is refused and made again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from zerokit.config.errors import ConfigError

log = logging.getLogger("zerokit")

FORMAT = 2
META, VERIFIED = "meta.json", "verified.json"
READ_BYTES = 1 << 22


def root() -> Path:
    """Where prepared data lie."""
    own = os.environ.get("ZEROKIT_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zerokit" / "data"


def cached(key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """The folder of what `key` (plain JSON values) says, and its facts; `make` writes it into a new one if need be.

    make: writes files into an empty folder and returns facts about them (plain JSON values).

    Raises:
        ConfigError: the cache cannot be written; or what `make` raises.
    """
    key = {"format": FORMAT, **key}
    folder = root() / _digest(json.dumps(key, sort_keys=True).encode())
    with _writable(), _locked(folder):
        facts = _facts(folder, key)
        if facts is None:
            facts = _made(folder, key, make)
        return folder, facts


def inputs_digest(paths: Sequence[Path]) -> str:
    """A digest of the contents of files and folders, in their order.

    It is kept by name, size and times of the files, so that they are read once.
    """
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    files = [file for file in files if file.is_file()]
    key = {"inputs": [[str(file), *_stamp(file)] for file in files]}
    _, facts = cached(key, lambda folder: {"digest": _contents(files)})
    return facts["digest"]


def mapped(file: Path, dtype: torch.dtype) -> Tensor:
    """A file's numbers, which stay on the disk until they are read."""
    count = file.stat().st_size // dtype.itemsize
    return torch.from_file(str(file), shared=False, size=count, dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _facts(folder: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """What a sound folder says about itself; None if there is none."""
    if not folder.is_dir():
        return None
    problem = None
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        problem = _problem(folder, meta, key)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"its {META} cannot be read ({error})"
    if problem is None:
        return meta["facts"]
    log.warning("%s is not used, and made again: %s.", folder, problem)
    return None


def _problem(folder: Path, meta: dict[str, Any], key: dict[str, Any]) -> str | None:
    if meta["key"] != key:
        return "it was made of something else"
    stamps = {name: _stamp(folder / name) for name in meta["files"]}
    for name, (size, _) in meta["files"].items():
        if stamps[name][0] != size:
            return f"{name} has {stamps[name][0]} bytes instead of {size}"
    verified = folder / VERIFIED
    if verified.is_file() and json.loads(verified.read_text(encoding="utf-8")) == stamps:
        return None
    for name, (_, digest) in meta["files"].items():
        if _contents([folder / name]) != digest:
            return f"{name} is not as it was written"
    _write(verified, stamps)
    return None


def _made(folder: Path, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    made = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        facts = make(made)
        files = {file.name: [file.stat().st_size, _contents([file])] for file in sorted(made.iterdir())}
        _write(made / META, {"key": key, "facts": facts, "files": files})
        _write(made / VERIFIED, {name: _stamp(made / name) for name in files})
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return facts


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; a lock ends with its process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _writable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"data: the cache {root()} cannot be used: {error.strerror or error}. Choose another folder with the "
            "environment variable ZEROKIT_CACHE."
        ) from error


def _write(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values), encoding="utf-8")


def _stamp(file: Path) -> list[int]:
    """What changes when a file is written to."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _contents(files: Sequence[Path]) -> str:
    digest = xxhash.xxh3_128()
    for file in files:
        digest.update(f"{file.stat().st_size} ".encode())
        with file.open("rb", buffering=0) as opened:
            while block := opened.read(READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _digest(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)
