"""What this host has, found out without importing torch."""

from __future__ import annotations

import os
import socket
from glob import glob
from pathlib import Path

CPU_RANKS = 8


def ranks(most: int) -> list[int]:
    """Return 1, 2, 4, ... up to `most`, which is always among them."""
    powers = [2**power for power in range(most.bit_length()) if 2**power < most]
    return [*powers, most]


def devices() -> int:
    """Return how many GPUs can be seen, else the number of cores but at most `CPU_RANKS`, without asking torch."""
    return visible_gpus() or min(cores(), CPU_RANKS)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(visible_cores()) or os.cpu_count() or 1


def visible_cores() -> list[int]:
    """Return the cores that this process may use; none where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def visible_gpus() -> int:
    """Return how many GPUs can be seen, without asking torch."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = len(glob("/dev/nvidia[0-9]*"))
    if listed is not None:
        gpus = min(gpus, len([name for name in listed.split(",") if name.strip() not in ("", "-1")]))
    return gpus


def process_space() -> str:
    """Return a name for the processes that this one can see: equal in two processes if one's ids mean the same to both.

    That is the boot of the machine and the namespace of process ids. Containers of one machine share its boot id, and
    those of two machines may share a host name.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()
