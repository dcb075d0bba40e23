"""Stacks on demand: a healthy worker must survive being asked where it is, as often as anybody likes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zerokit.fault.signals import STACKS, STUCK

WORKER = """
import ctypes, itertools, sys, threading, time
from pathlib import Path
from zerokit.fault.monitor import Limits, Monitor

def churn(seconds=1e9):  # frames that come and go, of code that comes and goes
    end = time.time() + seconds
    while time.time() < end:
        exec("def dive(n):\\n return 0 if not n else dive(n - 1)\\ndive(40)", {})

def stuck_in_c():
    sum(itertools.repeat(1, 10**9))  # some seconds without a look at the interpreter's signals, or a turn for others

with Monitor(None, 0, 1, Limits(), Path(sys.argv[1]), print):
    if sys.argv[2] == "stuck":
        print("ready", flush=True)
        stuck_in_c()
    else:
        for _ in range(4):
            threading.Thread(target=churn, daemon=True).start()
        print("ready", flush=True)
        if sys.argv[2] == "running":
            churn(3)
        elif sys.argv[2] == "reading":
            print(ctypes.CDLL(None).read(0, ctypes.create_string_buffer(1), 1), flush=True)  # C code of others
        sys.stdin.read()  # the main thread waits, as in a collective
print("over", flush=True)
time.sleep(0.5)
"""


@pytest.fixture
def begin(tmp_path) -> Iterator:
    begun = []

    def begin(kind: str) -> tuple[subprocess.Popen, Path]:
        words = [sys.executable, "-c", WORKER, str(tmp_path), kind]
        begun.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert begun[-1].stdout.readline() == "ready\n"
        return begun[-1], tmp_path / "rank0.stacks"

    yield begin
    for process in begun:
        process.kill()
        process.wait()


def ask(process: subprocess.Popen, times: int, pause_s: float) -> None:
    """Ask for stacks again and again; the process must live."""
    for _ in range(times):
        os.kill(process.pid, STACKS)
        time.sleep(pause_s)
        assert process.poll() is None


def test_a_worker_is_asked_for_its_stacks_while_threads_are_busy(begin):
    process, file = begin("busy")
    ask(process, times=300, pause_s=0.003)
    process.communicate(timeout=20)
    assert process.returncode == 0
    text = file.read_text()
    assert "asked by a signal" in text and text.count("in churn") >= 4


def test_a_main_thread_that_runs_is_asked_too(begin):
    process, file = begin("running")
    ask(process, times=2000, pause_s=0.001)
    process.communicate(timeout=20)
    assert process.returncode == 0 and "asked by a signal" in file.read_text()


def test_a_request_interrupts_no_call_of_the_system(begin):
    process, _ = begin("reading")
    ask(process, times=20, pause_s=0.02)
    assert process.communicate("x", timeout=20)[0].splitlines()[0] == "1"


def test_a_worker_that_holds_the_interpreter_tells_where(begin):
    process, file = begin("stuck")
    deadline = time.time() + 20
    while "in stuck_in_c" not in file.read_text():
        os.kill(process.pid, STUCK)
        time.sleep(0.2)
        assert process.poll() is None and time.time() < deadline


@pytest.mark.parametrize("number", [STACKS, STUCK])
def test_a_request_that_comes_late_does_not_end_the_process(begin, number):
    process, _ = begin("busy")
    process.stdin.close()  # the monitor ends
    assert process.stdout.readline() == "over\n"
    os.kill(process.pid, number)
    assert process.wait(20) == 0
