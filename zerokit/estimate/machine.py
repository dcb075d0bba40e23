"""The hardware that a configuration is estimated for, above all this machine."""

from __future__ import annotations

import os

import torch

from zerokit.config.checks import known_world
from zerokit.config.schema import Config
from zerokit.estimate.devices import this_cpu, this_gpu
from zerokit.estimate.measure import measure
from zerokit.record.hardware import Hardware, find_entry


def gpus(cfg: Config) -> int:
    """GPUs that a run of this configuration would find here, asked without taking memory on one."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    return 0 if cfg.launch.device == "cpu" else torch.cuda.device_count()


def find(name: str) -> Hardware:
    """The entry `name` of the hardware table, or this machine measured for `measure`.

    Raises:
        ConfigError: there is no such entry.
    """
    return measure() if name == "measure" else find_entry(name)


def hardware_of(cfg: Config) -> Hardware:
    """What the configuration names, else the entry most like the devices that a run here would use, with their memory.

    Raises:
        ConfigError: there is no entry of that name.
    """
    if cfg.estimate.hardware is not None:
        return find(cfg.estimate.hardware)
    return this_gpu() if gpus(cfg) else this_cpu()


def default_world(cfg: Config) -> int:
    """Processes that a run of this configuration would have here."""
    return known_world(cfg.launch) or gpus(cfg) or 1
