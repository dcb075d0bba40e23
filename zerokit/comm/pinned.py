"""Memory of the host that a GPU reads and writes by itself: page-locked, exactly as long as needed."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from zerokit.config.errors import ConfigError
from zerokit.config.host import available_memory


class HostMemory:
    """Bytes of the host, zeros (size,), page-locked where `device` is a GPU, until this object goes.

    Torch's own pinned memory is rounded up to a power of two. Page-locking takes about 0.4 s per GiB, so it is asked
    for once, in large pieces.
    """

    def __init__(self, size: int, device: torch.device):
        self.bytes = _pages(size) if device.type != "meta" else torch.empty(size, dtype=torch.uint8, device=device)
        self._lock: weakref.finalize | None = None
        if device.type == "cuda" and size:
            # Touched by all threads, on this process's node of the machine; one alone would take seconds.
            self.bytes.fill_(0)
            error = torch.cuda.cudart().cudaHostRegister(self.bytes.data_ptr(), size, 0)
            torch.cuda.check_error(int(error))
            # Given back while it is locked, it would stay with the driver, and its addresses could not be locked again.
            self._lock = weakref.finalize(self, _unlock, self.bytes)
            self._lock.atexit = False

    @property
    def nbytes(self) -> int:
        """How many."""
        return self.bytes.nbytes

    def close(self) -> None:
        """Unlock the memory. Nothing may be copying."""
        if self._lock is not None:
            self._lock()


def _pages(size: int) -> Tensor:
    """Bytes (size,) in pages of 2 MiB, where the system has them: those of 4 KiB are slow to make and to lock."""
    if size and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them; too little memory, which torch tells in its own words
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            memory.madvise(mmap.MADV_HUGEPAGE)
            return torch.frombuffer(memory, dtype=torch.uint8)
    return torch.zeros(size, dtype=torch.uint8)


def _unlock(memory: Tensor) -> None:
    torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())


class Host:
    """The memory of its host that a rank works with.

    agree: tells every rank whether any of them has none left; by default there is one rank.
    """

    def __init__(self, device: torch.device, agree: Callable[[bool], bool] = bool):
        self._device, self._agree = device, agree

    def reserve(self, size: int, what: str) -> None:
        """See that each process of the host can have `size` bytes for `what`, before any takes them. A collective.

        Raises:
            ConfigError: on every rank, if they cannot.
        """
        processes, free = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), available_memory()
        if self._agree(free is not None and size * processes > free):
            room = "as much is left" if free is None else f"{free / 2**30:.1f} GiB are left"
            raise ConfigError(
                f"{what} takes {size / 2**30:.1f} GiB of the host's memory in each of {processes} processes, and on "
                f"this host {room}, or on another one less. Keep less there, divide it among more hosts, or raise the "
                "container's limit."
            )

    def memory(self, size: int) -> HostMemory:
        """Zeros (size,) bytes."""
        return HostMemory(size, self._device)
