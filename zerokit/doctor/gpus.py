"""GPUs, what they are linked by, and NCCL."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from zerokit.doctor.line import Line, bad, note, ok
from zerokit.record.hardware import find_peak
from zerokit.record.metrics import format_bytes

COPIED = 256 << 20
REDUCED = 256 << 20


def gpus() -> Iterator[Line]:
    """Every GPU: memory, other users of it, formats, its peak."""
    import torch

    if not torch.cuda.is_available():
        yield _none(torch)
        return
    for index in range(torch.cuda.device_count()):
        yield from _gpu(torch, index)


def _none(torch) -> Line:
    driver = Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None
    if driver and torch.version.cuda is None:
        return bad(
            "GPU", "there is one, but this PyTorch is built for the CPU", "install PyTorch for CUDA: pytorch.org"
        )
    if driver:
        return bad(
            "GPU",
            "there is one, but PyTorch cannot use it",
            "is the driver too old? compare nvidia-smi, CUDA_VISIBLE_DEVICES",
        )
    return note("GPU", "none: runs take two processes on the CPU", "large models need a GPU; estimate works without")


def _gpu(torch, index: int) -> Iterator[Line]:
    what, facts = f"GPU {index}", torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    text = f"{facts.name}, {format_bytes(free)} free of {format_bytes(total)}"
    if free < 0.9 * total:
        yield note(what, text, "another process uses it: nvidia-smi shows which")
    else:
        yield ok(what, text)
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        yield note(what, "no bf16 in hardware", "use precision=fp16 or fp32")
    if find_peak(facts.name) is None:
        yield note(what, "no peak is known for MFU", "set train.peak_tflops to the datasheet's figure")


def links(quick: bool) -> Iterator[Line]:
    """Bandwidth of copies between host and GPU and between pairs of GPUs, and of NCCL's all-reduce."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return
    if torch.distributed.is_nccl_available():
        yield ok("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
    elif count > 1:
        yield bad("NCCL", "missing from this PyTorch", "install PyTorch for CUDA from pytorch.org")
    if quick:
        return
    host = torch.empty(COPIED, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(COPIED, dtype=torch.uint8, device="cuda:0")
    yield ok("host to GPU 0", f"{format_bytes(_bandwidth(torch, lambda: device.copy_(host, non_blocking=True)))}/s")
    for source in range(count):
        for target in range(source + 1, count):
            yield _pair(torch, source, target)
    if count > 1:
        yield _all_reduce(count)


def _pair(torch, source: int, target: int) -> Line:
    a = torch.empty(COPIED, dtype=torch.uint8, device=f"cuda:{source}")
    b = torch.empty(COPIED, dtype=torch.uint8, device=f"cuda:{target}")
    what, speed = (
        f"GPU {source} to {target}",
        f"{format_bytes(_bandwidth(torch, lambda: b.copy_(a, non_blocking=True)))}/s",
    )
    if torch.cuda.can_device_access_peer(source, target):
        return ok(what, f"{speed}, direct")
    return note(
        what, f"{speed}, through the host", "zero.transport=peer is not possible; without NVLink prefer zero=stage2"
    )


def _bandwidth(torch, copy: Callable[[], object], times: int = 5) -> float:
    """Bytes per second of a copy of `COPIED` bytes, the fastest of a few."""
    best = float("inf")
    for _ in range(times):
        _synchronize(torch)
        began = time.perf_counter()
        copy()
        _synchronize(torch)
        best = min(best, time.perf_counter() - began)
    return COPIED / best


def _synchronize(torch) -> None:
    for index in range(torch.cuda.device_count()):
        torch.cuda.synchronize(index)


def _all_reduce(count: int) -> Line:
    from zerokit.comm.probe import all_reduce_seconds

    try:
        seconds = all_reduce_seconds("nccl", count, REDUCED)
    except RuntimeError as error:
        line = (str(error).strip().splitlines() or ["no answer"])[-1]
        return bad("NCCL", f"the GPUs cannot sum: {line[:120]}", "NCCL_DEBUG=INFO says why")
    bus = 2 * (count - 1) / count * REDUCED / seconds
    return ok("NCCL", f"{count} GPUs sum 256 MiB in {1000 * seconds:.2f} ms, bus bandwidth {format_bytes(bus)}/s")
