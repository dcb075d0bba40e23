"""The devices of this machine as entries of the hardware table."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import torch

from zerokit.record.hardware import ENTRIES, Hardware, most_like


def this_cpu() -> Hardware:
    """The entry of a core, with the memory of this host that is not in use."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return replace(ENTRIES["cpu"], memory=free)


def this_gpu() -> Hardware:
    """The entry most like the first GPU, with its memory. Leaves CUDA alone, which a fork would not survive."""
    name, mebibytes = _driver_says() or _torch_says()
    return replace(most_like(name), memory=mebibytes << 20, per_host=torch.cuda.device_count())


def _driver_says() -> tuple[str, int] | None:
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    name, comma, size = answer.stdout.partition("\n")[0].rpartition(",")
    return (name, int(size)) if comma and size.strip().isdigit() else None


def _torch_says() -> tuple[str, int]:
    properties = torch.cuda.get_device_properties(0)
    return properties.name, properties.total_memory >> 20
