"""The key-value store through which the workers of a launch find each other."""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist


def connect(timeout: timedelta) -> dist.Store:
    """Return a store shared by all workers, with fresh keys after each restart.

    The agent of torch elastic hosts it if there is one, else rank 0 does, at MASTER_ADDR and MASTER_PORT.
    """
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        int(os.environ["WORLD_SIZE"]),
        is_master=os.environ["RANK"] == "0" and not hosted,
        timeout=timeout,
        wait_for_workers=False,
    )
    return dist.PrefixStore(f"zerokit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
