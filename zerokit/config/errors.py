"""The one error a wrong configuration leads to, and the hint at the nearest valid name."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

SHARED, LITTLE = "/dev/shm", 1 << 20
LIMITS = {
    errno.EMFILE: "raise the limit of open files of a process (ulimit -n)",
    errno.ENFILE: "this host has as many open files as it may have",
    errno.EFBIG: "raise the limit of the size of files (ulimit -f)",
}
"""What to do about limits that no other folder helps against."""


class ConfigError(ValueError):
    """A configuration that cannot be run; its text is for people and names the key, the value and what is allowed."""


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Say of a file that cannot be written inside what it was for: `WHAT: No space left on device.`

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{what}: {error.strerror or error}.") from error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the disk inside name the file, which Python leaves out of those of an open one."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def usable_folder() -> Iterator[None]:
    """Turn what the disk refuses inside, such as a folder to write into or room in it, into a `ConfigError`."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, *LIMITS):
            raise
        raise ConfigError(_remedy(error)) from error


def _remedy(error: OSError) -> str:
    """What the disk, or the system, has refused, and what to do."""
    if error.errno in LIMITS:
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{error.strerror}: {LIMITS[error.errno]}."
    if error.errno == errno.ENOSPC and error.filename is None and _is_full(SHARED):
        return (
            f"{SHARED} is full, in which processes share memory: make room there, or give it more "
            "(docker run --shm-size=8g)."
        )
    if error.filename and Path(error.filename).is_relative_to(tempfile.gettempdir()) and error.errno == errno.ENOSPC:
        return f"{error.filename}: {error.strerror}. Make room there, or set TMPDIR to another folder."
    return (
        f"Cannot use {error.filename or 'the output folder'}: {error.strerror}. Choose another output folder: "
        "hydra.run.dir=DIR, of a sweep hydra.sweep.dir=DIR."
    )


def _is_full(folder: str) -> bool:
    try:
        room = os.statvfs(folder)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < LITTLE


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name most like `name` without regard to case, or None if none resembles it."""
    candidates = {str(candidate).lower(): str(candidate) for candidate in allowed}
    name = name.lower()
    matches = get_close_matches(name, candidates, n=1, cutoff=0.6) or [c for c in candidates if c.startswith(name)]
    return candidates[matches[0]] if matches else None


def suggestion(name: str, allowed: Iterable[str], prefix: str = "") -> str:
    """Return ` Did you mean PREFIXname?` for the nearest allowed name, or an empty text."""
    match = nearest(name, allowed)
    return f" Did you mean {prefix}{match}?" if match else ""
