"""What this host has, found out without importing torch."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path

CPU_RANKS = 8
MEMORY = "/proc/meminfo"
LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
     "/sys/fs/cgroup/memory/memory.stat"),
)  # fmt: skip
"""Where a container's limit, what it uses, and how much of that is files in memory, are told (cgroup v2, v1)."""


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


def memory(file: str = MEMORY) -> dict[str, int]:
    """Return bytes of the host's memory by the names of Linux; none where the system does not tell."""
    found: dict[str, int] = {}
    with suppress(OSError):
        for line in Path(file).read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                found[name] = int(value.split()[0]) * 1024
    return found


def memory_limit(limits: Sequence[tuple[str, str, str]] = LIMITS) -> int | None:
    """Return the bytes that the container of this process may take; None without a limit."""
    return next((limit for path, _, _ in limits if (limit := _number(path)) is not None), None)


def available_memory(limits: Sequence[tuple[str, str, str]] = LIMITS, file: str = MEMORY) -> int | None:
    """Return the bytes that processes of this host may still take, by what is free and by the container's limit; None
    where the system does not tell."""
    found = [memory(file).get("MemAvailable"), *(_left(*paths) for paths in limits)]
    return min((size for size in found if size is not None), default=None)


def _left(limit: str, used: str, stat: str) -> int | None:
    most, taken = _number(limit), _number(used)
    if most is None or taken is None:
        return None
    files = {}
    with suppress(OSError):
        files = dict(line.split() for line in Path(stat).read_text().splitlines())
    cache = int(files.get("inactive_file", files.get("total_inactive_file", 0)))
    return max(0, most - taken + cache)


def _number(file: str) -> int | None:
    with suppress(OSError, ValueError):  # `max`: no limit
        return int(Path(file).read_text())
    return None
