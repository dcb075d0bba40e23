"""One job per output folder. Imports no torch."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from zerokit.config.errors import ConfigError

FILE = Path("logs", "run.lock")


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep other jobs out of an output folder for the time of the block.

    The lock is one of the operating system on a file in it: it ends with the processes that hold it, however they end,
    and workers forked meanwhile hold it too.

    Raises:
        ConfigError: another job has it, and which.
    """
    path = Path(run_dir) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{run_dir} is in use by another job{_holder(path)}: wait, or choose another folder with "
                              "hydra.run.dir=DIR.") from None  # fmt: skip
        started = datetime.now(UTC).isoformat(timespec="seconds")
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started}).encode())
        yield
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f" (process {holder['pid']} on {holder['host']}, since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
