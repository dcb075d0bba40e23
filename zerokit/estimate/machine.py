"""This machine as an entry of the hardware table."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import torch

from zerokit.config.checks import known_world
from zerokit.config.schema import Config
from zerokit.estimate.hardware import TABLE, Hardware, find

LIKE = (("H200", "h200_nvlink"), ("H100", "h100_ib400"), ("A100", "a100"))


def gpus(cfg: Config) -> int:
    """GPUs that a run of this configuration would find here, asked without taking memory on one."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    return 0 if cfg.launch.device == "cpu" else torch.cuda.device_count()


def hardware_of(cfg: Config) -> Hardware:
    """What the configuration names, else the entry most like the devices that a run here would use, with their memory.

    Raises:
        ConfigError: there is no entry of that name.
    """
    if cfg.estimate.hardware is not None:
        return find(cfg.estimate.hardware)
    return this_gpu() if gpus(cfg) else replace(TABLE["cpu"], memory=host_memory())


def this_gpu() -> Hardware:
    """The entry most like the first GPU, with its memory. Leaves CUDA alone, which a fork would not survive."""
    name, mebibytes = _driver_says() or _torch_says()
    entry = next((entry for word, entry in LIKE if word in name), "h100_ib400")
    return replace(TABLE[entry], memory=mebibytes << 20, per_host=torch.cuda.device_count())


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


def host_memory() -> int:
    """Bytes of this host that are not in use."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def default_world(cfg: Config) -> int:
    """Processes that a run of this configuration would have here."""
    return known_world(cfg.launch) or gpus(cfg) or 1
