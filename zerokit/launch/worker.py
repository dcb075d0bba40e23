"""What runs first in every worker process."""

from __future__ import annotations

import importlib
import signal
import time
from typing import Any

import torch.distributed as dist

CONSEQUENCES = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
CAUSE_FIRST_S = 2.0


def work(entry: str, config: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """Call the entry `module:function` with the config and the output folder."""
    # A forked worker inherits handlers that raise in Python, which a worker blocked in a collective never reaches.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return call(entry, config, run_dir)


def call(entry: str, config: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """Call the entry; hold back an error that only says that another rank is gone, so that the cause is seen first."""
    module, _, function = entry.partition(":")
    try:
        return getattr(importlib.import_module(module), function)(config, run_dir)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or any(sign in str(error) for sign in CONSEQUENCES):
            time.sleep(CAUSE_FIRST_S)
        raise
