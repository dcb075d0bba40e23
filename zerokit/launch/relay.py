"""Signals on their way from the launcher to the workers: the first asks to save and end, a later one kills them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from zerokit.fault.signals import ASKING, Wish


class Interrupted(BaseException):
    """A signal came while no worker was there to tell. `signal`: its number."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Relay:
    """Passes signals on to the children of this process for the time of a block, then puts the old handlers back.

    Elastic would kill the workers after a while; here they end on their own, and elastic only sees them finish.

    [Note: signals and forks] Python forgets in a forked process what came before its first line. So workers begin with
    these signals blocked, which keeps what comes, and let them through when they have handlers (`let_through`).

    numbers: of the signals. killed: a second one came, and was no repeat of the first.
    """

    def __init__(self, numbers: Sequence[int] = ASKING) -> None:
        self._numbers = tuple(numbers)
        self.killed = False
        self._wish = Wish()
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    @property
    def signal(self) -> int | None:
        """The first that came, if any did."""
        return self._wish.signal

    def __enter__(self) -> Relay:
        if threading.current_thread() is threading.main_thread():
            # SIGQUIT is elastic's, which leaves its handler behind
            self._before = {number: signal.getsignal(number) for number in (*self._numbers, signal.SIGQUIT)}
            for number in self._numbers:
                signal.signal(number, self._on_signal)
            _at_forks.blocked = self._numbers
        return self

    def __exit__(self, *_: object) -> None:
        _at_forks.blocked = ()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        if os.getpid() != self._process:  # a worker that has only just been forked
            os._exit(128 + number)
        wish = self._wish.note(number)
        if wish == 0:
            return
        self.killed = wish == 2
        children = multiprocessing.active_children()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL if self.killed else number)
        if not children and not self.killed:  # a later signal finds the run over already
            raise Interrupted(self.signal)


def let_through(numbers: Sequence[int]) -> None:
    """Take the signals that came since this process was forked, and those that come."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def pass_on(number: int) -> None:
    """Let this process's own handler of a signal have it, now that the run has been saved: that of submitit puts the
    job back into the queue."""
    if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler, None):
        signal.raise_signal(number)


class _AtForks:
    """Blocks signals while this process forks, if it relays them; see the note in `Relay`."""

    def __init__(self) -> None:
        self.blocked: tuple[int, ...] = ()
        os.register_at_fork(before=self._block, after_in_parent=self._let_through)

    def _block(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, self.blocked)

    def _let_through(self) -> None:
        let_through(self.blocked)


_at_forks = _AtForks()
