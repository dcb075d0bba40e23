"""Which ranks are of this host, and a store that answers no more."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import torch.distributed as dist

from tests.fault.runs import children
from zerokit.config.host import process_space
from zerokit.fault import Limits, Monitor, agent, monitor
from zerokit.fault import board as boards
from zerokit.fault.board import Board

CONTEXT = multiprocessing.get_context("fork")
NOBODY = 2**22 + 1
"""No process has so great an id."""


def test_ranks_in_containers_of_one_name_are_not_looked_for_here(monkeypatch):
    """What tells hosts apart is whose process ids mean the same, not their names."""
    store, here = dist.HashStore(), process_space()
    board = Board(store, 0, 3)
    for rank, space in ((1, here), (2, f"{here} of another container")):
        monkeypatch.setattr(boards, "process_space", lambda space=space: space)
        monkeypatch.setattr(boards.os, "getpid", lambda: NOBODY)
        Board(store, rank, 3)
    monkeypatch.undo()
    assert len({board.place(rank).host for rank in range(3)}) == 1
    assert (board.neighbour(), board.is_gone(1)) == (1, True)
    assert (board.state(2), board.is_gone(2)) == (None, False)


def test_processes_of_one_host_share_a_space():
    with CONTEXT.Pool(1) as pool:
        assert pool.apply(process_space) == process_space()


class Cut:
    """A store behind a cut cable."""

    def __getattr__(self, call: str):
        return lambda *words: time.sleep(1000)


def lose_the_network(folder: Path) -> None:
    def record(status: str, cause: str) -> None:
        (folder / status).write_text(cause)

    with Monitor(None, 0, 1, Limits(start=2.0), folder, record) as watching:
        watching._board._store._store = Cut()
        time.sleep(1000)


def test_a_rank_whose_store_is_silent_ends_at_the_limit_of_its_phase(tmp_path):
    since = time.monotonic()
    process = CONTEXT.Process(target=lose_the_network, args=(tmp_path,))
    process.start()
    process.join(30)
    assert process.exitcode == 1 and time.monotonic() - since > 2
    assert "has not answered for 2 s: the network is cut" in (tmp_path / "failed").read_text()


def hang(folder: Path) -> None:
    """As an agent of torchrun in a call that nobody answers: no signal that it handles ends it."""
    os.environ["TORCHELASTIC_RUN_ID"] = "tests"
    agent.PATIENCE_S = 1
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    CONTEXT.Process(target=lose_the_network, args=(folder,)).start()
    time.sleep(1000)


def test_an_agent_of_torchrun_that_hangs_is_ended_too(tmp_path):
    process = CONTEXT.Process(target=hang, args=(tmp_path,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL


def test_an_agent_that_is_stopped_is_left_alone(tmp_path):
    process = CONTEXT.Process(target=hang, args=(tmp_path,))
    process.start()
    while not (tmp_path / "rank0.stacks").exists():
        time.sleep(0.05)
    (worker,) = children(process.pid)
    os.kill(process.pid, signal.SIGSTOP)
    while boards.process_state(worker) != "gone":
        time.sleep(0.1)
    time.sleep(2)
    assert boards.process_state(process.pid) == "T"
    process.kill()


def test_the_last_words_of_a_rank_have_a_limit(tmp_path, monkeypatch):
    """Its folder may lie behind the same cable."""
    monkeypatch.setattr(monitor, "LAST_WORDS_S", 1.0)
    monkeypatch.setattr(Monitor, "_end_with", lambda *_: time.sleep(1000))
    process = CONTEXT.Process(target=lose_the_network, args=(tmp_path,))
    process.start()
    process.join(30)
    assert process.exitcode == 1
