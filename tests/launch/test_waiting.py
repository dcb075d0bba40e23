"""A rank that waits for others says for whom, and what may be wrong."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.config.arguments import config
from zerokit.launch import joined

CONTEXT = multiprocessing.get_context("fork")


def waiting(config: dict, run_dir: str) -> None:
    """As a worker whose process group never forms."""
    time.sleep(60)


def lead(folder: Path) -> None:
    joined.lead(config("batch.global=3"), folder, "tests.launch.test_waiting:waiting")


def follow(folder: Path) -> None:
    joined.follow()


def idle(folder: Path) -> None:
    """As rank 0 that makes up its mind about the first job."""
    joined._connect()
    time.sleep(60)


@pytest.fixture
def start(monkeypatch, tmp_path) -> Iterator[Callable]:
    """Starts a function as one of three ranks of a Slurm step."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    step = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "3", "LOCAL_RANK": "0",
            "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}  # fmt: skip
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(joined, "TELL_S", 1.0)
    begun = []

    def start(function: Callable, rank: int) -> None:
        monkeypatch.setenv("RANK", str(rank))
        begun.append(CONTEXT.Process(target=function, args=(tmp_path,)))
        begun[-1].start()

    yield start
    for process in begun:
        process.kill()


def told(capfd, of: str, within_s: float = 20) -> list[str]:
    """The lines on the terminal that begin with a rank, once there is one."""
    lines, deadline = [], time.monotonic() + within_s
    while not lines and time.monotonic() < deadline:
        time.sleep(0.1)
        lines += [line for line in capfd.readouterr().err.splitlines() if line.startswith(f"zerokit: {of}")]
    return lines


HINT = " All 3 tasks of Slurm's step 7.0 must start zerokit; SLURM_STEP_NUM_TASKS=1 lets one train alone"


def test_rank_0_names_those_that_have_not_come(start, capfd):
    start(lead, 0)
    start(follow, 2)
    (line,) = told(capfd, "rank 0")
    assert line.startswith("zerokit: rank 0 waits for rank 1 of 3, not seen for 1 s." + HINT)


def test_a_rank_that_cannot_reach_rank_0_says_where_it_looks(start, capfd):
    start(follow, 1)
    (line,) = told(capfd, "rank 1")
    where = f"localhost:{os.environ['MASTER_PORT']}"
    assert line.startswith(f"zerokit: rank 1 waits for rank 0: nothing answers at {where}." + HINT)


def test_of_many_that_wait_for_a_job_one_says_it(start, capfd):
    start(idle, 0)
    start(follow, 1)
    start(follow, 2)
    time.sleep(3)
    (line,) = told(capfd, "rank ")
    assert "waits for rank 0, which can be reached but has started no job for 1 s" in line
