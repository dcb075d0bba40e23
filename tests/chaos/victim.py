"""The command line of zerokit, whose workers raise an error in whatever the main thread is doing at SIGUSR1."""

from __future__ import annotations

import signal
from typing import Any

import zerokit
import zerokit.launch
from zerokit.train import worker


def _raise(*_: object) -> None:
    raise ValueError("a fault of the test")


def run(config: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """As the worker of a training."""
    signal.signal(signal.SIGUSR1, _raise)
    return worker.run(config, run_dir)


if __name__ == "__main__":
    zerokit.launch.WORKER = "tests.chaos.victim:run"
    zerokit.main()
