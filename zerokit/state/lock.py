"""One job per output folder. Imports no torch."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from zerokit.config.errors import ConfigError
from zerokit.config.terminal import say

FILE = Path("logs", "run.lock")
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems say that cannot lock, such as Lustre mounted without `flock`."""


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep other jobs out of an output folder for the time of the block.

    The lock is one of the operating system on a file in it: it ends with the processes that hold it, however they end,
    and workers forked meanwhile hold it too. Where the file system has no locks, a warning says so.

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
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            say(f"warning: the file system of {run_dir} has no locks ({error.strerror}): a second job in this folder "
                "would not be refused.", sys.stderr)  # fmt: skip
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
