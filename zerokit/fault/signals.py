"""Signals to a worker, delivered to a thread even while the main thread waits in a collective."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Of these, and those of `launch.save_signals`, the first asks to save and end; a second one, which is no repeat of it,
ends at once."""
REPEAT_S = 1.0
"""Seconds after the first signal within which another is the same wish: `timeout`, terminals and schedulers signal a
process and its group, or all processes of a job, of which the launcher tells the workers once more."""
STACKS = signal.SIGRTMIN + 1
"""Makes a worker write the stacks of its threads into its log folder; the user's signals are those of schedulers."""
STUCK = signal.SIGRTMIN
"""The same for a worker that holds the interpreter in C: of the main thread, and not safe for one that goes on."""
WORD = ".asked_by"
"""A worker that was asked to end leaves an empty file whose name is that of its error file, this, and the signal."""


def asking(save_signals: Sequence[str]) -> tuple[signal.Signals, ...]:
    """All signals that ask a run to save and end. save_signals: names of those beside `ASKING`, such as `USR1`."""
    return (*ASKING, *(signal.Signals[f"SIG{name}"] for name in save_signals))


def leave_word(number: int) -> None:
    """Let the launcher know that somebody asked this worker to end, so that it does not start it again."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        with suppress(OSError):
            Path(f"{file}{WORD}{int(number)}").touch()


def word_left(folder: Path) -> int | None:
    """The signal by which a worker with its error file in `folder` was asked to end, None if none was."""
    words = [path.name.rpartition(WORD)[2] for path in folder.glob(f"*{WORD}*")]
    return int(words[0]) if words else None


class Wish:
    """That this process shall end, as it is told by signals. signal: the first that came, None before."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._since = 0.0

    def note(self, number: int) -> int:
        """Take note of a signal: 1 if it is the first, 0 if it repeats that, 2 if it insists."""
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = number, now
            return 1
        return 2 if now - self._since > REPEAT_S else 0


class Signals:
    """Reads signals from a pipe, which the interpreter's C handler fills whatever the main thread does.

    Handlers can be set by the main thread only; made in another thread, the object never has a signal.
    asked_by: the signals beside `STACKS` that are read.
    """

    def __init__(self, asked_by: Sequence[int] = ASKING) -> None:
        self._asked_by = asked_by
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._before = {number: signal.signal(number, _do_nothing) for number in (*asked_by, STACKS)}
            signal.siginterrupt(STACKS, False)  # it comes to healthy runs, whose C code may not expect EINTR

    def wait(self, seconds: float) -> list[int]:
        """The signals that come within some seconds, requests for stacks as one; returns as soon as there is one, or at
        `wake`."""
        if not select.select([self._reader], [], [], seconds)[0]:
            return []
        numbers = os.read(self._reader, 64)
        return [number for number in numbers if number in self._asked_by] + [STACKS] * (STACKS in numbers)

    def wake(self) -> None:
        """Let `wait` return."""
        os.write(self._writer, b"\0")

    def close(self) -> None:
        """Put the handlers back that were there before; a late request for stacks does not end the process."""
        if self._before:
            signal.set_wakeup_fd(self._wakeup)
            self._before |= {STACKS: signal.SIG_IGN, STUCK: signal.SIG_IGN}
            for number, handler in self._before.items():
                signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)


def _do_nothing(*_: object) -> None:
    """Python's half of the handler: the C half has written into the pipe already."""
