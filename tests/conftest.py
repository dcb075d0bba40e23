"""One thread: tests fork workers, and sums must not depend on the number of cores."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile

import torch

if "ZEROKIT_CACHE" not in os.environ:  # nothing of a test stays in the user's cache
    os.environ["ZEROKIT_CACHE"] = tempfile.mkdtemp(prefix="zerokit-cache-")
    atexit.register(shutil.rmtree, os.environ["ZEROKIT_CACHE"], ignore_errors=True)
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs ignore it, and so do their children
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser) -> None:
    """Options of `tests/chaos` and `tests/hosts`."""
    parser.addoption("--budget", type=float, default=60.0, help="seconds for each chaos test; 0 for all its cases")
    parser.addoption("--jobs", type=int, default=1, help="independent cases of a chaos test that run side by side")
    parser.addoption("--record", action="store_true", help="write the chaos tests' results into their RESULTS.md")
    parser.addoption("--install", action="store_true", help="install the packages of the system that tests/hosts needs")
