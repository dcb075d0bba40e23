from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from zerokit.fault.signals import asking
from zerokit.launch.relay import Relay, pass_on
from zerokit.launch.worker import work

NUMBERS = asking(["USR1"])
CONFIG = {"launch": {"save_signals": ["USR1"]}}
CONTEXT = multiprocessing.get_context("fork")


def marked(config: dict, run_dir: str) -> dict:
    """As the worker of a training."""
    open(os.path.join(run_dir, "begun"), "w").close()
    return {}


@pytest.mark.parametrize("alive", [True, False])
def test_a_worker_whose_launcher_is_gone_does_not_begin(tmp_path, alive):
    """The launcher may be killed between the fork and the worker's first call."""
    launcher = os.getpid() if alive else 1
    arguments = ("tests.launch.test_worker:marked", CONFIG, str(tmp_path), launcher)
    process = CONTEXT.Process(target=work, args=arguments)
    process.start()
    process.join(20)
    assert (process.exitcode, (tmp_path / "begun").exists()) == ((0, True) if alive else (1, False))


def lasting(config: dict, run_dir: str) -> dict:
    """As the worker of a training that takes its time."""
    time.sleep(60)
    return {}


def blocked(answer: multiprocessing.Queue) -> None:
    answer.put(signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= set(NUMBERS))


def test_a_worker_begins_with_signals_blocked_and_its_launcher_does_not_stay_so():
    """Python forgets signals that come to a forked process before its first line."""
    answer = CONTEXT.Queue()
    for relay in (False, True):
        with Relay(NUMBERS) if relay else open(os.devnull):
            process = CONTEXT.Process(target=blocked, args=(answer,))
            process.start()
            assert answer.get(timeout=20) is relay
            process.join()
            assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(NUMBERS)


def test_a_signal_in_a_workers_first_moment_ends_it():
    with Relay():
        arguments = ("tests.launch.test_worker:lasting", CONFIG, "", os.getpid())
        process = CONTEXT.Process(target=work, args=arguments)
        process.start()
        os.kill(process.pid, signal.SIGTERM)
        process.join(20)
    assert process.exitcode in (-signal.SIGTERM, 128 + signal.SIGTERM)


def test_a_handler_that_was_there_gets_the_signal_once_the_run_is_saved():
    """As that of submitit does, which puts the job back into the queue."""
    got = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: got.append(number))
    try:
        with Relay(NUMBERS):
            pass_on(signal.SIGUSR2)
            assert got == [signal.SIGUSR2]
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        pass_on(signal.SIGUSR2)  # this process goes on
        pass_on(signal.SIGINT)  # Python's own: the launcher raises KeyboardInterrupt itself
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert len(got) == 1
