"""The one error a wrong configuration leads to, and the hint at the nearest valid name."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


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
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ConfigError(
            f"Cannot use {error.filename or 'the output folder'}: {error.strerror}. Choose another output folder: "
            "hydra.run.dir=DIR, of a sweep hydra.sweep.dir=DIR."
        ) from error


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
