"""`deepspeed.comm`: the process group, and torch.distributed under its own names."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from zerokit.comm.process import open_group
from zerokit.config.schema import LaunchConfig
from zerokit.train.initialize import close_at_exit


def init_distributed(dist_backend: str | None = None, auto_mpi_discovery: bool = True,
                     distributed_port: int | None = None, verbose: bool = True, timeout: timedelta | None = None,
                     init_method: str | None = None, dist_init_required: bool | None = None, config: Any = None,
                     rank: int = -1, world_size: int = -1) -> None:  # fmt: skip
    """Open the default process group unless there is one: that of torchrun or Slurm, else of this process alone.

    The backend follows from the device: NCCL for GPUs, gloo for a CPU. Other arguments are DeepSpeed's and not needed.

    Raises:
        RuntimeError: `dist_init_required` is False and there is none.
    """
    if dist.is_initialized():
        return
    if dist_init_required is False:
        raise RuntimeError("dist_init_required=False, but torch.distributed is not initialised.")
    seconds = {} if timeout is None else {"timeout_s": timeout.total_seconds()}
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        open_group(LaunchConfig(**seconds))
    else:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    close_at_exit()


def is_initialized() -> bool:
    """Whether there is a process group."""
    return dist.is_available() and dist.is_initialized()


def get_rank(group: Any = None) -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank(group) if is_initialized() else int(os.environ.get("RANK", "0"))


def get_world_size(group: Any = None) -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size(group) if is_initialized() else 1


def get_local_rank() -> int:
    """This process's rank on its host."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def __getattr__(name: str) -> Any:
    return getattr(dist, name)
