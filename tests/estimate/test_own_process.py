from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool

import pytest

from zerokit.config.errors import ConfigError
from zerokit.estimate.own_process import in_own_process
from zerokit.fault.board import process_state


def refuse() -> None:
    raise ConfigError("not so")


def test_it_is_another_process_whose_results_and_errors_come_back():
    assert in_own_process(os.getpid) != os.getpid()
    with pytest.raises(ConfigError, match="^not so$"):
        in_own_process(refuse)


def test_a_process_that_dies_is_an_error():
    with pytest.raises(BrokenProcessPool):
        in_own_process(os._exit, 1)


def sleep_and_tell(path: str) -> None:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(1000)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_it_ends_with_the_process_that_asks(tmp_path, number):
    """A launcher that was killed during its prediction left a process for ever."""
    told = tmp_path / "pid"
    asking = multiprocessing.get_context("fork").Process(target=in_own_process, args=(sleep_and_tell, str(told)))
    asking.start()
    wait_until(lambda: told.exists() and told.read_text())
    os.kill(asking.pid, number)
    asking.join()
    wait_until(lambda: process_state(int(told.read_text())) == "gone")


def wait_until(happened: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)
