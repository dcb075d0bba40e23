"""This process as one of the workers: device, threads and process group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from weakref import WeakSet

import torch
import torch.distributed as dist

from zerokit.comm.store import connect
from zerokit.comm.stream import compute_first
from zerokit.config.host import cores
from zerokit.config.schema import LaunchConfig

_store: dist.Store | None = None
_holders: WeakSet = WeakSet()
"""What must be closed before the process group."""


@dataclass(frozen=True)
class Process:
    """Place of a worker among the others, and its device."""

    rank: int
    """Number of this process, 0 to world - 1."""
    local_rank: int
    """Number of this process on its host."""
    world: int
    """Number of processes."""
    device: torch.device
    """Where this process computes."""


@contextmanager
def start(launch: LaunchConfig) -> Iterator[Process]:
    """Set threads, open the process group as `open_group` does, and close it after success."""
    torch.set_num_threads(launch.threads or _share_of_cores())
    process = open_group(launch)
    try:
        yield process
    finally:
        _close_holders()  # after an error as well, since the end of the process closes the group in any case
    # Not after an error: closing a group waits for the other ranks, and the error would never be seen.
    if process.world > 1:
        dist.destroy_process_group()


def close_first(holder: Any) -> None:
    """Let the `close` of `holder`, if it still exists, be called before the process group goes."""
    _holders.add(holder)


def _close_holders() -> None:
    for holder in list(_holders):
        holder.close()


def close_group() -> None:
    """Close the default process group, if there is one, and before it what `close_first` has named."""
    _close_holders()
    if dist.is_initialized():
        dist.destroy_process_group()


def open_group(launch: LaunchConfig) -> Process:
    """Take this process's device and join the others in the default process group (none for a single process).

    RANK, LOCAL_RANK and WORLD_SIZE are read from the environment (default: one process), and MASTER_ADDR and
    MASTER_PORT where the launcher has given no store. The group is nccl on GPUs and gloo on a CPU.
    """
    rank, local_rank, world = place()
    device = device_of(launch)
    process = Process(rank, local_rank, world, device)
    store = meeting_place(launch)
    if store is None:
        return process
    timeout = timedelta(seconds=launch.timeout_s)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )
    return process


def place() -> tuple[int, int, int]:
    """Rank, rank on this host, and number of processes, as the environment says."""
    return tuple(int(os.environ.get(key, default)) for key, default in _PLACE)


def meeting_place(launch: LaunchConfig) -> dist.Store | None:
    """The store of this run, connected to if the launcher has given none; None for a single process."""
    global _store
    if place()[2] == 1:
        return None
    timeout = timedelta(seconds=launch.timeout_s)
    if _store is None:
        _store = connect(timeout)
    _store.set_timeout(timeout)
    return _store


def use_store(store: dist.Store | None) -> None:
    """Let the next process group meet through `store` instead of MASTER_ADDR and MASTER_PORT."""
    global _store
    _store = store


_PLACE = (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))


def device_of(launch: LaunchConfig) -> torch.device:
    """The device of this process, made the current one if it is a GPU.

    Raises:
        RuntimeError: a GPU is asked for and there is none.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count() if launch.device != "cpu" else 0
    if gpus == 0 and launch.device == "cuda":
        raise RuntimeError("launch.device=cuda, but PyTorch sees no GPU in this process.")
    if gpus == 0:
        return torch.device("cpu")
    # srun may show each task its own GPU only.
    device = torch.device("cuda", local_rank if local_rank < gpus else 0)
    torch.cuda.set_device(device)
    compute_first(device)
    return device


def _share_of_cores() -> int:
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
