"""Signals on their way from the launcher to the workers: the first asks them to save and end, the second kills them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from contextlib import suppress
from typing import Any

RELAYED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal came while no worker was there to tell. `signal`: its number."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Relay:
    """Passes signals on to the children of this process for the time of a block, then puts the old handlers back.

    Elastic would kill the workers after a while; here they end on their own, and elastic only sees them finish.

    signal: the first that came, if any did. killed: a second one came.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.killed = False
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def __enter__(self) -> Relay:
        if threading.current_thread() is threading.main_thread():
            # SIGQUIT is elastic's, which leaves its handler behind
            self._before = {number: signal.getsignal(number) for number in (*RELAYED, signal.SIGQUIT)}
            for number in RELAYED:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        if os.getpid() != self._process:  # a worker that has only just been forked
            os._exit(128 + number)
        self.killed, self.signal = self.signal is not None, self.signal or number
        children = multiprocessing.active_children()
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL if self.killed else number)
        if not children:
            raise Interrupted(self.signal)
