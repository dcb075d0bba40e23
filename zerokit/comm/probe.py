"""A measured collective in processes of its own, so that a machine can be examined without a run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

TIMES = 5
LIMIT_S = 60


def all_reduce_seconds(backend: str, world: int, count: int) -> float:
    """Seconds in which `world` processes of this host sum `count` bytes, the fastest of a few times.

    Raises:
        RuntimeError: with the last lines of a process that failed, or if they do not answer within a minute.
    """
    with tempfile.TemporaryDirectory(prefix="zerokit-") as folder:
        words = [
            sys.executable,
            "-m",
            "zerokit.comm.probe",
            backend,
            str(world),
            str(count),
            str(Path(folder) / "store"),
        ]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen([*words, str(rank)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for rank in range(world)
        ]
        try:
            results = [process.communicate(timeout=LIMIT_S) for process in started]
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"no answer within {LIMIT_S} s") from None
        finally:
            for process in started:
                process.kill()
                process.wait()
    for process, (_, errors) in zip(started, results, strict=True):
        if process.returncode:
            raise RuntimeError(errors)
    return float(results[0][0].split()[-1])


def _measure(backend: str, world: int, count: int, store: str, rank: int) -> float:
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=world)
    tensor = torch.zeros(count // 4, device=device)
    best = float("inf")
    for _ in range(TIMES):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(tensor)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    dist.destroy_process_group()
    return best


if __name__ == "__main__":
    backend, world, count, store, rank = sys.argv[1:]
    print(_measure(backend, int(world), int(count), store, int(rank)))
