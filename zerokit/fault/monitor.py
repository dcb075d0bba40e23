"""A thread in every worker that sees what the main thread cannot: signals, other ranks that fail, and a standstill.

[Note: agreeing on the last step] A signal reaches one rank or several, at different steps, and no rank may wait for
another between steps. So the ranks agree outside of the training: a request on the board makes each rank's thread hold
the main thread back before its next step and say which step it has entered. The last step is the largest of these, and
everybody goes on up to it. In a step without a request this costs taking a lock, and no word to anybody.

[Note: ending a rank] A main thread that waits in a collective for a rank that is gone may never come back. So the
thread waits a little for the main thread to leave on its own, which gives the better traceback, and then ends the
process.

[Note: whose signal it is] When a rank has ended, perhaps before it said where it runs, elastic sends SIGTERM to the
others, once. Every other signal is of somebody who wants the run to be over, so that it shall not start again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from zerokit.config.errors import ConfigError
from zerokit.fault.agent import end_agent_that_hangs
from zerokit.fault.board import Board
from zerokit.fault.signals import STACKS, STUCK, Signals, Wish, asking, leave_word
from zerokit.fault.stacks import StackFile

POLL_S, BUSY_POLL_S = 0.5, 0.05
"""Seconds between two looks at the board, and while answers are awaited. A signal is seen at once."""
ANSWER_S = 10.0
"""Seconds within which every rank must answer a request to stop."""
DUMP_S = 3.0
"""Seconds that ranks have to write their stacks."""
LEAVE_S = 2.0
"""Seconds that a main thread has to leave on its own when another rank has failed."""
SUSPENDED_S = 5.0
"""A look at the board that comes later than this was held up by a suspended process or host."""
LAST_WORDS_S = 10.0
"""Seconds that a rank without a network has to write down why it ends; its folder may lie behind the same cable."""
CONSEQUENCES = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")

log = logging.getLogger("zerokit")
END = logging.getLogger("zerokit.end")
"""For why a run ended, which the launcher says on the terminal, or that it starts again."""


class Ended(RuntimeError):
    """What ended the run, told by a rank that is not its cause."""


def is_consequence(error: BaseException) -> bool:
    """Whether an error says no more than that another rank is gone."""
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in CONSEQUENCES)


@dataclass(frozen=True)
class Limits:
    """Seconds that the main thread may spend in a phase before the rank counts as hung; None waits for ever."""

    step: float | None = 120.0
    start: float | None = 1800.0
    save: float | None = 1800.0

    def of(self, phase: str) -> float | None:
        """The limit of a phase: `step`, `measure` (the host waits for steps under way), `save`, or another one."""
        return {"step": self.step, "measure": self.step, "save": self.save}.get(phase, self.start)


class Monitor:
    """Watches over one rank; use it as a context around everything that the rank does.

    store: through which the ranks meet, shared with nobody (None for a single process). record: called with the cause,
    and a status by one rank alone, when the run ends without the main thread. folder: of the logs. save_signals: names
    of signals that save and end the run, beside SIGTERM, SIGINT and SIGHUP.
    """

    def __init__(self, store: dist.Store | None, rank: int, world: int, limits: Limits, folder: Path,
                 record: Callable[[str, str], None], save_signals: Sequence[str] = ()):  # fmt: skip
        self.rank, self.world, self._limits, self._record = rank, world, limits, record
        self._board = Board(dist.HashStore() if store is None else store, rank, world)
        self._signals = Signals(asking(save_signals))
        self._stacks = StackFile(folder, rank)
        self.position: Callable[[], tuple[int, str]] = lambda: (0, "none")
        """How many collectives this rank has begun, and the last one in words; set when there is a communicator."""
        self.signal: int | None = None
        """The signal that ended the run between two steps, once the ranks have agreed on that."""
        self._turn = threading.Condition()
        self._entered = 0  # the step that the main thread is in, or has done
        self._frozen = False
        self._last: int | None = None
        self._phase, self._since, self._extra = "start", time.monotonic(), 0.0
        self._steps, self._step_s, self._window = 0, 0.0, self._since
        self._leaving, self._done, self._closed = threading.Event(), False, False
        self._wish, self._terminations = Wish(), 0
        self._deadline: float | None = None  # for the answers that are awaited
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._over = threading.Event()
        self._second = threading.Thread(target=self._watch_store, name="monitor of the store", daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        self._second.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._done = kind is None
        self._leaving.set()
        if self._done:
            self._board.leave()
        self._closed = True
        self._signals.wake()
        self._thread.join()
        self._over.set()
        self._second.join()
        self._stacks.close()
        self._signals.close()  # after it: a late request for stacks is to be ignored

    # -- the main thread ---------------------------------------------------------------------------------------------

    def go_on(self, step: int) -> bool:
        """Whether the step after `step` may begin. Every rank asks after every step, and before the first (0)."""
        with self._turn:
            while self._frozen and self._last is None:
                self._turn.wait()
            if self._last is not None and step >= self._last:
                return False
            first, self._entered = self._entered == 0, step + 1
        self.phase("start" if first else "step")  # the first step compiles and allocates
        return True

    def phase(self, name: str, steps: int = 0) -> None:
        """What the main thread begins now: `start`, `step`, `measure`, `evaluate`, `save` or `end`.

        steps: that a GPU may still have to do in `measure`; the time they took on average so far is allowed for twice.
        """
        now = time.monotonic()
        if self._phase == "measure":
            self._step_s, self._window = (now - self._window) / max(1, self._steps), now
        self._steps, self._extra = steps, 2 * self._step_s * steps
        self._phase, self._since = name, now

    def cause(self, error: BaseException) -> str:
        """Why the run fails, told by whichever rank knows: `error` of this rank may be a mere consequence."""
        self._leaving.set()
        own = f"rank {self.rank}: {type(error).__name__}: {error}"
        if isinstance(error, (Ended, ConfigError)):
            own = str(error)
        elif is_consequence(error):
            deadline = time.monotonic() + LEAVE_S
            while time.monotonic() < deadline:
                failed = self._board.read("failed") or self._look_at_neighbour()
                if failed:
                    return failed["cause"]
                time.sleep(0.1)
        return self._board.post("failed", cause=own, absent=[])["cause"]

    def fail(self, cause: str) -> None:
        """Let the run fail; any thread may call it."""
        self._board.post("failed", cause=cause, absent=[])

    def records(self) -> bool:
        """Whether this rank writes down the cause of a failure: the first one that is there."""
        failed = self._board.read("failed")
        absent = failed["absent"] if failed else []
        return self.rank == min(rank for rank in range(self.world) if rank not in absent)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._closed:
            began = time.monotonic()
            poll = BUSY_POLL_S if self._frozen and self._last is None else POLL_S
            signals = self._signals.wait(poll)
            late = time.monotonic() - began - poll
            if late > SUSPENDED_S:
                self._since += late
            try:
                for number in signals:
                    self._on_signal(number)
                self._look()
            except dist.DistError as error:
                # The process that holds the store is gone: nobody is left to go on with.
                self._end_soon(f"rank {self.rank}: the launcher cannot be reached any more ({error})", records=True)
            except Exception as error:  # nobody would watch over the rank any more
                END.error("the monitor failed", exc_info=True)
                self._end_soon(f"rank {self.rank}: the monitor failed: {type(error).__name__}: {error}")

    def _on_signal(self, number: int) -> None:
        """See [Note: whose signal it is]."""
        if number == STACKS:
            return self._stacks.write(f"rank {self.rank}: {self._where()}; asked by a signal")
        wish, name = self._wish.note(number), signal.Signals(number).name
        gone, failing = self._look_at(range(self.world)), self._leaving.is_set() and not self._done
        self._terminations += number == signal.SIGTERM
        somebodys = self._board.all_are_here() and not gone
        if somebodys or number != signal.SIGTERM or self._terminations > 1:
            leave_word(number)
        if wish == 2:
            log.warning("%s, a second signal: ending at once", name)
            _exit(128 + number)
        if failing:
            threading.Timer(LEAVE_S, _exit, (1,)).start()
        elif self._done or self._frozen or self._phase == "end":
            log.info("%s: the run is ending already", name)
        elif not gone:
            self._board.post("stop", signal=number, rank=self.rank)

    def _look(self) -> None:
        if self._leaving.is_set():
            return
        if self._board.changed():
            self._on_messages()
        if self._frozen and self._last is None:
            self._count_answers()
        self._look_at_neighbour()
        limit = self._limits.of(self._phase)
        if limit is not None and time.monotonic() - self._since > limit + self._extra:
            self._on_standstill(limit + self._extra)

    def _on_messages(self) -> None:
        failed, hang, stop = (self._board.read(topic) for topic in ("failed", "hang", "stop"))
        if failed:
            self._end_soon(failed["cause"])
        elif hang:
            self._stacks.write(f"rank {self.rank}: {self._where()}; asked by rank {hang['rank']}")
            self._board.answer("hang", [self._entered, *self.position()])
        elif stop and not self._frozen:
            self._freeze(stop)

    def _look_at_neighbour(self) -> dict[str, Any] | None:
        rank = self._board.neighbour()
        return None if rank is None else self._look_at([rank])

    def _look_at(self, ranks: Iterable[int]) -> dict[str, Any] | None:
        """The message that the run has failed if the process of one of `ranks` on this host is gone."""
        rank = next((rank for rank in ranks if self._board.is_gone(rank)), None)
        if rank is None:
            return None
        pid = self._board.place(rank).pid
        cause = f"rank {rank} is gone: its process {pid} ended without a word (killed, perhaps out of memory)"
        return self._board.post("failed", cause=cause, absent=[rank])

    # -- stopping ----------------------------------------------------------------------------------------------------

    def _freeze(self, stop: dict[str, Any]) -> None:
        """See [Note: agreeing on the last step]."""
        if not self._board.all_are_here():  # so no rank has done a step yet, and there is nothing to save
            if self.rank == 0:
                self._record("interrupted", f"{signal.Signals(stop['signal']).name} in start-up")
            _exit(128 + stop["signal"])
        log.info("signal %d on rank %d: agreeing on the last step", stop["signal"], stop["rank"])
        with self._turn:
            self._frozen, entered = True, self._entered
        self._board.answer("stop", entered)
        self._deadline = time.monotonic() + ANSWER_S

    def _count_answers(self) -> None:
        stop = self._board.read("stop")
        if self._board.all_answered("stop"):
            with self._turn:
                self._last = max(self._board.answers("stop").values())
                self.signal = stop["signal"]
                self._turn.notify_all()
            log.info("the last step is %d", self._last)
        elif time.monotonic() > self._deadline:
            missing = sorted(set(range(self.world)) - set(self._board.answers("stop")))
            cause = f"{_ranks(missing)} did not answer the request to stop (signal {stop['signal']})"
            self._board.post("failed", cause=cause, absent=missing)

    # -- standing still ----------------------------------------------------------------------------------------------

    def _on_standstill(self, limit: float) -> None:
        """Ask all ranks where they are, name the one that is behind, and end the run."""
        hang = self._board.post("hang", rank=self.rank)
        if self._board.changed():
            self._on_messages()
        if hang["rank"] != self.rank:  # that rank collects the answers, unless it hangs itself
            self._deadline = self._deadline or time.monotonic() + 4 * DUMP_S
            if time.monotonic() > self._deadline:
                self._end_soon(f"rank {hang['rank']} saw a standstill and went silent")
            return
        answers = self._board.gather("hang", DUMP_S)
        missing = sorted(set(range(self.world)) - set(answers))
        states = {rank: self._wake(rank) for rank in missing}
        if states:
            for rank in set(missing) - set(self._board.gather("hang", DUMP_S)):
                self._signal(rank, STUCK)
        waited = f"rank {self.rank} has waited for {limit:.0f} s in {self._phase_in_words()}"
        cause = f"{self._blame(answers, states)}; {waited}; stacks: logs/rank*.stacks"
        self._board.post("failed", cause=cause, absent=missing)

    def _wake(self, rank: int) -> str:
        """Let a silent process of this host answer after all if it is stopped; what it was doing, in words."""
        state = self._board.state(rank)
        if state in (None, "gone"):
            return self._elsewhere(rank) if state is None else "its process is gone"
        pid = self._board.place(rank).pid
        self._signal(rank, signal.SIGCONT)
        names = {"T": "stopped", "D": "waiting for a device or a disk", "R": "computing", "S": "sleeping"}
        return f"its process {pid} was {names.get(state, state)}"

    def _elsewhere(self, rank: int) -> str:
        place = self._board.place(rank)
        return f"it runs on {place.host}" if place else "it has not said where it runs"

    def _signal(self, rank: int, number: int) -> None:
        """Signal a process of this host."""
        if self._board.state(rank) not in (None, "gone"):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self._board.place(rank).pid, number)

    def _blame(self, answers: dict[int, list], states: dict[int, str]) -> str:
        if states:
            return "; ".join(f"rank {rank} does not answer ({state})" for rank, state in states.items())
        fewest = min(tuple(answer[:2]) for answer in answers.values())
        behind = [rank for rank, answer in answers.items() if tuple(answer[:2]) == fewest]
        if len(behind) == self.world:
            return f"all ranks stand still in step {fewest[0]}, their last collective: {answers[0][2]}"
        at = f"step {fewest[0]}, last collective: {answers[behind[0]][2]}"
        return f"{_ranks(behind)} {'is' if len(behind) == 1 else 'are'} behind the others ({at})"

    def _where(self) -> str:
        count, last = self.position()
        return f"{self._phase_in_words()}, {count} collectives begun, the last: {last}"

    def _phase_in_words(self) -> str:
        apart = {"start": "start-up", "end": "the end of the run", "step": f"step {self._entered}"}
        return apart.get(self._phase, f"step {self._entered} ({self._phase})")

    # -- a store that does not answer ---------------------------------------------------------------------------------

    def _watch_store(self) -> None:
        """See [Note: a cut cable]. Only time in which this process was awake counts."""
        question, owed = None, 0.0
        while not self._over.wait(POLL_S):
            before, question = question, self._board.oldest_question()
            owed = owed + POLL_S if question is not None and question == before else 0.0
            limit = self._limits.of(self._phase)
            if limit is not None and owed > limit + self._extra:
                self._end_without_store(owed)

    def _end_without_store(self, owed: float) -> None:
        cause = (
            f"rank {self.rank}: the store of the run, at {os.environ.get('MASTER_ADDR')}, has not answered for "
            f"{owed:.0f} s: the network is cut, or its process hangs"
        )
        guard = threading.Timer(LAST_WORDS_S, os._exit, (1,))
        guard.daemon = True
        guard.start()
        end_agent_that_hangs()
        self._end_with(cause, self.rank == 0)

    # -- ending ------------------------------------------------------------------------------------------------------

    def _end_soon(self, cause: str, records: bool = False) -> None:
        """See [Note: ending a rank]."""
        if self._leaving.wait(LEAVE_S):
            return
        try:
            with suppress(dist.DistError):  # the store may be what is gone
                for number in self._signals.wait(0):
                    self._on_signal(number)
            records = records or self.records()
        finally:  # whatever else fails
            self._end_with(cause, records)

    def _end_with(self, cause: str, records: bool) -> None:
        try:
            END.error("the run failed: %s", cause)
            if os.environ.get("TORCHELASTIC_ERROR_FILE"):
                ErrorHandler().record_exception(Ended(cause))
            if records:
                self._record("failed", cause)
        finally:
            _exit(1)


def _exit(status: int) -> None:
    """End the process now, whatever its other threads are doing."""
    for flush in (logging.shutdown, sys.stdout.flush, sys.stderr.flush):
        with suppress(OSError, ValueError):
            flush()
    os._exit(status)


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
