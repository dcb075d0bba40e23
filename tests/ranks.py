"""Runs a function on several ranks: forked gloo processes, one thread each, one file store per call."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo  # models on the meta device import it, which takes seconds: once, before processes fork
import torch.distributed as dist


def _worker(function: Callable, rank: int, world: int, backend: str, path: str, args: tuple, queue: Any) -> None:
    torch.set_num_threads(1)
    device = None
    try:
        if backend == "nccl":
            device = torch.device("cuda", rank)
            torch.cuda.set_device(device)
        if world > 1:
            dist.init_process_group(
                backend, init_method=f"file://{path}", rank=rank, world_size=world, device_id=device
            )
        queue.put((rank, True, function(*args)))
    except BaseException:
        queue.put((rank, False, traceback.format_exc()))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def run_ranks(function: Callable, world: int, *args: Any, timeout: float = 120, backend: str = "gloo") -> list:
    """What `function(*args)` returns on each rank (plain values); raises AssertionError with a rank's traceback."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "store")
        processes = [
            context.Process(target=_worker, args=(function, r, world, backend, path, args, queue)) for r in range(world)
        ]
        for process in processes:
            process.start()
        results: dict[int, Any] = {}
        try:
            for _ in range(world):
                rank, ok, value = queue.get(timeout=timeout)
                assert ok, f"rank {rank} failed:\n{value}"
                results[rank] = value
        finally:
            for process in processes:
                process.join(timeout=5 if len(results) == world else 0.2)
                if process.is_alive():
                    process.kill()
    return [results[rank] for rank in range(world)]
