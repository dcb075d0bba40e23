"""Training with a fault in it: `run.tags=[FAULT@R@S]` lets it happen on rank R in step S (from 1; 0 is start-up).

S can also be a place in the program (`PLACES`). `FAULT@R@S@N` has it in the first N attempts; without N it is the first
alone.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from zerokit.comm.process import place
from zerokit.fault.board import Board
from zerokit.record import summary
from zerokit.record.metrics import MetricsFile
from zerokit.report import ended
from zerokit.state.disk import Disk
from zerokit.tracker.none import NoTracker
from zerokit.train import facts, recorder, worker
from zerokit.train.saving import Saver
from zerokit.train.trainer import Trainer


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_late() -> None:
    """In start-up, when the other ranks have begun."""
    time.sleep(1)
    _kill()


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _raise() -> None:
    raise ValueError("the cause")


def _out_of_memory() -> None:
    torch.empty(1 << 60)


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def _terminate_and_raise() -> None:
    _terminate()
    _raise()


def _terminate_late() -> None:
    """While this rank is being ended, since another has failed."""
    time.sleep(1)
    _terminate()
    _hang()


def _interrupt_and_repeat() -> None:
    """As `timeout -s INT` does: the process, then its group."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)


def _hang() -> None:
    time.sleep(1000)


def _hold() -> None:
    """In C, with the interpreter, so that no other thread of the process has a turn."""
    sum(itertools.repeat(1, 10**10))


def _flip() -> None:
    """Flip the lowest bit of one weight: at stages 1 and 2 of the part that others gather, which the next gather brings
    back; so it happens just before the comparison."""
    from zerokit.zero.access.replicas import Replicas

    original = Replicas.difference

    def difference(self: Replicas) -> str | None:
        self._engine.gatherer.settle()
        tensor = next(value for name, value in self._tensors.items() if name.endswith("bias"))
        tensor.view(torch.int32)[0] ^= 1
        return original(self)

    Replicas.difference = difference


def _fill_disk() -> None:
    """From now on this rank finds no room in the output folder."""

    def no_room(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(file: MetricsFile, *_: Any) -> None:
        file._file = open("/dev/full", "a")  # noqa: SIM115

    Disk.write = summary.write_summary = ended.write_summary = recorder.write_report = no_room
    _before(MetricsFile, "log", full)
    _before(NoTracker, "finish", lambda *_: print("the tracker is told of the end"))


def _leave() -> None:
    os._exit(0)


FAULTS = {
    "kill": _kill, "stop": _stop, "raise": _raise, "out_of_memory": _out_of_memory, "terminate": _terminate,
    "terminate_and_raise": _terminate_and_raise, "terminate_late": _terminate_late,
    "fill_disk": _fill_disk, "kill_late": _kill_late,
    "interrupt_and_repeat": _interrupt_and_repeat, "hang": _hang, "hold": _hold, "flip": _flip, "leave": _leave,
}  # fmt: skip

PLACES = {
    "assembly": (worker, "assemble"), "results": (facts, "results"), "leave": (Board, "leave"),
    "save": (Saver, "save_now"), "measure": (Trainer, "_measure"),
}  # fmt: skip


def run(config: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """As the worker of a training."""
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    for tag in config["run"]["tags"]:
        name, rank, step, attempts = (*tag.split("@"), "1")[:4]
        if place()[0] == int(rank) and attempt < int(attempts):
            _let_happen(FAULTS[name], step)
    result = worker.run(config, run_dir)
    (Path(run_dir) / f"result{place()[0]}").write_text(str(result["status"]))
    return result


def _let_happen(fault: Callable[[], None], step: str) -> None:
    if step == "0":
        fault()
    elif step in PLACES:
        _before(*PLACES[step], lambda *_: fault())
    else:
        _before(Trainer, "_step", lambda _, index, *__: fault() if index + 1 == int(step) else None)


def _before(owner: Any, name: str, act: Callable[..., None]) -> None:
    """Let `act` see every call of a function first."""
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **named: Any) -> Any:
        act(*arguments)
        return original(*arguments, **named)

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    import zerokit
    import zerokit.launch

    zerokit.launch.WORKER = "tests.fault.faulty:run"
    zerokit.main()
