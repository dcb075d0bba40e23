"""A cell in a process of its own, whose end, however it comes, ends nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from zerokit.launch.parent import end_with
from zerokit.sweep.slots import Slot

LOG = "logs/output.log"
"""What a cell prints, in its folder."""
_fork = multiprocessing.get_context("fork")
"""A fork has the modules and the registered components of this process already; CUDA is not used before it."""


class CellProcess:
    """Calls `work` in another process, with its output in the folder's log.

    Args:
        work: raises what ended it badly.
        folder: output folder of the cell.
        slot: what it may use of the machine.
    """

    def __init__(self, work: Callable[[], None], folder: Path, slot: Slot) -> None:
        self.slot = slot
        self._answer, theirs = _fork.Pipe(duplex=False)
        self._process = _fork.Process(target=_main, args=(work, folder, slot, theirs, os.getpid()))
        self._process.start()
        theirs.close()

    @property
    def sentinel(self) -> int:
        """Becomes ready when the process has ended."""
        return self._process.sentinel

    def signal(self, number: int) -> None:
        """Send a signal to the process; nothing happens if it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the process has ended, at most `seconds`; return whether it has."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    def error(self) -> str | None:
        """Return why it ended badly, or None if it did its work. To be called once, when it has ended."""
        self._process.join()
        with suppress(EOFError):
            return self._answer.recv()
        self.kill()  # its workers may have outlived it
        code = self._process.exitcode
        if code < 0:
            hint = "; out of memory?" if code == -signal.SIGKILL else ""
            return f"killed by signal {-code} ({signal.Signals(-code).name}{hint})"
        return f"ended with exit status {code}"


def _main(work: Callable[[], None], folder: Path, slot: Slot, answer: Connection, parent: int) -> None:
    os.setsid()  # Ctrl-C reaches the parent, which decides
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with(parent, signal.SIGTERM)
    slot.enter()
    _redirect(folder / LOG)
    try:
        work()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        traceback.print_exc()
        answer.send(f"{type(error).__name__}: {error}")
    else:
        answer.send(None)


def _redirect(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
