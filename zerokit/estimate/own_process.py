"""Predictions in a process of their own: what they compile, and devices they ask for, stay out of this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from zerokit.launch.parent import end_with

Result = TypeVar("Result")


def in_own_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """What `function(*arguments)` returns or raises in a forked process.

    The workers are forked later, and a process in which anything has asked CUDA's driver cannot fork workers that use
    it: the compiler asks, also for a model on fake tensors.

    It ends with this one, however this one ends.

    Raises:
        BrokenProcessPool: the process was killed.
    """
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, fork, initializer=end_with, initargs=(os.getpid(), signal.SIGKILL)) as pool:
        return pool.submit(function, *arguments).result()
