"""One job per output folder. Imports no torch."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zerokit.config.errors import ConfigError
from zerokit.config.files import refuse_links, remove_drafts
from zerokit.config.host import process_space
from zerokit.config.terminal import say

FILE = Path("logs", "run.lock")
WRITTEN = ("logs", "state", "profile", "tensorboard")
"""Folders in a run's folder in which a run writes; trackers have links of their own in theirs."""
PATIENCE_S, POLL_S = 60.0, 0.2
"""Seconds for which the workers of a launcher that has ended are waited for, and between two tries."""
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems say that cannot lock, such as Lustre mounted without `flock`."""


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep other jobs out of an output folder for the time of the block.

    The lock is one of the operating system on a file in it: it ends with the processes that hold it, however they end,
    and workers forked meanwhile hold it too. Where the file system has no locks, a warning says so.

    Raises:
        ConfigError: another job has it, and which; or there are links in it.
    """
    path = Path(run_dir) / FILE
    refuse_links(Path(run_dir), WRITTEN)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        _acquire(descriptor, path, run_dir)
        remove_drafts(Path(run_dir))
        started = datetime.now(UTC).isoformat(timespec="seconds")
        os.truncate(descriptor, 0)
        holder = {"pid": os.getpid(), "space": process_space(), "host": socket.gethostname(), "since": started}
        os.write(descriptor, json.dumps(holder).encode())
        yield
    finally:
        os.close(descriptor)


def check_free(run_dir: Path) -> None:
    """Refuse a folder in which another job runs; one that has ended counts no more, whatever its workers do.

    Raises:
        ConfigError: as `locked` raises it.
    """
    path = Path(run_dir) / FILE
    refuse_links(Path(run_dir), WRITTEN)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:  # there is none; or `locked` will say what is wrong with it
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(path)
        if not _is_gone(holder):
            raise _in_use(run_dir, holder) from None
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _in_use(run_dir: Path, holder: dict[str, Any]) -> ConfigError:
    who = f" (process {holder['pid']} on {holder['host']}, since {holder['since']})" if holder else ""
    return ConfigError(
        f"{run_dir} is in use by another job{who}: wait, or choose another folder with hydra.run.dir=DIR."
    )


def _acquire(descriptor: int, path: Path, run_dir: Path) -> None:
    """Take the lock; wait for the workers of a launcher that was killed, which end with it, but not at once."""
    deadline = None
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = _holder(path)
            gone = _is_gone(holder)
            if gone and deadline is None:
                deadline = time.monotonic() + PATIENCE_S
                say(f"waiting for the workers of process {holder['pid']}, which has ended, in {run_dir}")
            if not gone or time.monotonic() > deadline:
                raise _in_use(run_dir, holder) from None
            time.sleep(POLL_S)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            say(f"warning: the file system of {run_dir} has no locks ({error.strerror}): a second job in this folder "
                "would not be refused.", sys.stderr)  # fmt: skip
            return


def _holder(path: Path) -> dict[str, Any]:
    """What the job that has the lock wrote down; empty where that cannot be read."""
    try:
        holder = json.loads(path.read_text())
        return {"pid": int(holder["pid"]), **{key: str(holder[key]) for key in ("space", "host", "since")}}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the process was of this host and has ended."""
    if not holder or holder["space"] != process_space():
        return False
    try:
        os.kill(holder["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it is another user's
        pass
    return False
