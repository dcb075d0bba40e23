"""The timed window: marks on the device between steps, one synchronisation before and one after."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.data import Batches
from bench.systems import System

GIB = 1 << 30


class Marks:
    """Moments on the device, read after the end: CUDA events, or the host's clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list = []

    def set(self) -> None:
        """Mark the moment at which the device has done everything issued so far."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def milliseconds(self) -> list[float]:
        """Time between neighbouring marks. The device must have reached the last one."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [a.elapsed_time(b) if self._cuda else (b - a) * 1000 for a, b in pairs]


@dataclass
class Window:
    """What one rank saw."""

    step_ms: list[float]
    issue_ms: list[float]
    """Time the host took to issue each step."""
    window_s: float
    """From synchronisation to synchronisation."""
    losses: list[Tensor]
    """Of all steps, warm-up included."""
    warmup_s: float
    memory: dict[str, float]


def run(system: System, batches: Batches, warmup: int, steps: int, device: torch.device) -> Window:
    """Warm up, then time `steps` steps. The batches lie on the device before anything starts."""
    data = [batches(step) for step in range(warmup + steps)]
    began = time.perf_counter()
    start_peak = dict[str, float]()
    losses = []
    for index, batch in enumerate(data[:warmup]):
        if index == system.recorded_at:  # what replays use is allocated then
            start_peak = _lasting_from_here(device)
        losses.append(system.step(*batch))
    _synchronise(device)
    warmup_s = time.perf_counter() - began
    gc.collect()
    gc.freeze()
    marks, issued = Marks(device), []
    start_peak = start_peak or _lasting_from_here(device)
    began = time.perf_counter()
    marks.set()
    for batch in data[warmup:]:
        issue = time.perf_counter()
        losses.append(system.step(*batch))
        marks.set()
        issued.append((time.perf_counter() - issue) * 1000)
    _synchronise(device)
    window_s = time.perf_counter() - began
    memory = start_peak | _memory(device)
    for kind in set(memory) - {"device_gib"}:
        memory[kind] += system.unseen_bytes() / GIB
    return Window(marks.milliseconds(), issued, window_s, losses, warmup_s, memory)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _lasting_from_here(device: torch.device) -> dict[str, float]:
    """Let peaks count from now on; the peak before."""
    if device.type != "cuda":
        return {}
    torch.cuda.synchronize(device)
    before = {"start_allocated_gib": torch.cuda.max_memory_allocated(device) / GIB}
    torch.cuda.reset_peak_memory_stats(device)
    return before


def _memory(device: torch.device) -> dict[str, float]:
    """Peaks of the window, and what the whole device has in use, which the allocator does not know all of."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "allocated_gib": torch.cuda.max_memory_allocated(device) / GIB,
        "reserved_gib": torch.cuda.max_memory_reserved(device) / GIB,
        "device_gib": (total - free) / GIB,
    }
