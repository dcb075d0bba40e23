"""How much memory a process uses: of the GPU where there is one, else of the host."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def _host_bytes(peak: bool) -> int:
    """Resident bytes of this process, now or at most so far."""
    if _STATUS.exists():
        key = "VmHWM:" if peak else "VmRSS:"
        return next(int(line.split()[1]) * 1024 for line in _STATUS.read_text().splitlines() if line.startswith(key))
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


class MemoryMeter:
    """Peak memory since it was made: allocated by torch on a GPU; on a CPU, what the process has grown by."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        clear = Path("/proc/self/clear_refs")
        if clear.exists():
            with suppress(OSError):  # not allowed in some containers: the peak then includes what came before
                clear.write_text("5")  # the peak starts again from now
        self._before = _host_bytes(peak=False)

    def peak(self) -> int:
        """Bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return max(0, _host_bytes(peak=True) - self._before)

    def reserved(self) -> int:
        """Bytes, with what the allocator holds in reserve; the same as `peak` on a CPU."""
        return torch.cuda.max_memory_reserved(self.device) if self.device.type == "cuda" else self.peak()
