"""This machine's entry of the hardware table, measured in a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from zerokit.estimate.devices import this_cpu, this_gpu
from zerokit.record.hardware import Hardware, Link

FORMATS = ("float32", "bfloat16", "float16")
SECONDS = 0.15
"""Each figure is the best of repetitions over this time."""


def measure() -> Hardware:
    """What the first GPU reaches, or one core of this host: products, memory, launches, and on GPUs copies to a peer.

    What takes several processes or hosts (collectives, the network) is that of the entry most like it.
    """
    gpu = torch.cuda.is_available()
    before = torch.get_num_threads()
    torch.set_num_threads(before if gpu else 1)
    try:
        return _measured(torch.device("cuda" if gpu else "cpu"))
    finally:
        torch.set_num_threads(before)


def _measured(device: torch.device) -> Hardware:
    base = this_gpu() if device.type == "cuda" else this_cpu()
    size, words = (8192, 2**28) if device.type == "cuda" else (384, 2**23)
    small = torch.zeros(64, device=device)
    overhead = _seconds(lambda: small.add_(1.0), device)
    return replace(
        base,
        name="measure",
        flops={name: _flops(getattr(torch, name), size, device) for name in FORMATS},
        bandwidth=_bandwidth(words, device),
        overhead=base.overhead if device.type == "cuda" else overhead,
        launch=overhead if device.type == "cuda" else 0.0,
        peer=_peer(base.peer, words),
        sources=("measured on this machine; collectives and network as in the entry " + base.name,),
    )


def _flops(dtype: torch.dtype, size: int, device: torch.device) -> float:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _seconds(lambda: a @ b, device)


def _bandwidth(words: int, device: torch.device) -> float:
    source = torch.zeros(words, device=device)
    target = torch.zeros(words, device=device)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source), device)


def _peer(entry: Link | None, words: int) -> Link | None:
    if entry is None or torch.cuda.device_count() < 2 or not torch.cuda.can_device_access_peer(0, 1):
        return None
    target, source = (torch.zeros(words, device=f"cuda:{index}") for index in range(2))
    return Link(source.nbytes / _seconds(lambda: target.copy_(source), target.device), entry.latency)


def _seconds(function: Callable[[], Tensor], device: torch.device) -> float:
    """The shortest time of a call, the device's work included."""

    def once(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - began) / calls

    once(1)
    best, calls, end = once(1), 1, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        calls = max(1, min(100, int(0.01 / best)))
        best = min(best, once(calls))
    return best
