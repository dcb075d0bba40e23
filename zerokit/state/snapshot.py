"""A copy of a rank's pieces on the host, taken beside the training, from which the file is written later."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from zerokit.comm import Communicator, Stream
from zerokit.comm.stream import use_device
from zerokit.state.piece import Piece
from zerokit.state.rankfile import RankFile, view_bytes

WRITE_BYTES = 1 << 24


def _host_memory(size: int) -> Tensor:
    """Bytes (size,) in pages of 2 MiB, where the system has them: those of 4 KiB are slow to make and to lock."""
    if size and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them; too little memory, which torch tells in its own words
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            memory.madvise(mmap.MADV_HUGEPAGE)
            return torch.frombuffer(memory, dtype=torch.uint8)
    return torch.empty(size, dtype=torch.uint8)


def _unlock(memory: Tensor) -> None:
    torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())


class HostCopy:
    """Host memory for one rank's file, page-locked where the pieces lie on a GPU, and kept from save to save.

    [Note: a snapshot beside the training] The copy runs on a stream of its own after the last update. What writes the
    state waits for it (`Communicator.copied`), in a recorded step too: the next update, and weights put in place of
    others. Nothing else does: forward and backward of the next step read weights only. What they change, `Piece.early`:
    counters, loss scale, buffers, is copied on the device first. The host waits for nothing.
    """

    def __init__(self, file: RankFile, device: torch.device):
        self.file, self._device = file, device
        self._memory = _host_memory(file.data_bytes)
        self._stream = Stream(device)
        self._done: Any = None
        self._held: list[Tensor] = []
        self._lock: Any = None
        if device.type == "cuda" and file.data_bytes:
            # Exactly as long as needed: torch's own pinned memory is rounded up to a power of two.
            error = torch.cuda.cudart().cudaHostRegister(self._memory.data_ptr(), file.data_bytes, 0)
            torch.cuda.check_error(int(error))
            # Given back while it is locked, it would stay with the driver, and its addresses could not be locked again.
            self._lock = weakref.finalize(self, _unlock, self._memory)
            self._lock.atexit = False

    @property
    def nbytes(self) -> int:
        """Bytes of host memory."""
        return self._memory.nbytes

    def take(self, comm: Communicator) -> None:
        """Start the copy. The tensors hold what later calls on the compute stream see; see the note above."""
        self._held = []
        comm.compute.wait(comm.updates.record())
        early = {i: self._clone(piece) for i, piece in enumerate(self.file.pieces) if piece.early}
        known = comm.compute.record()
        with self._stream as stream:
            stream.wait(known)
            stream.wait(comm.copied)  # of another object, which this one's mark stands for as well
            for index, (piece, offset) in enumerate(zip(self.file.pieces, self.file.offsets, strict=True)):
                chunks = [(0, early[index])] if index in early else piece.chunks()
                for begin, values in chunks:
                    target = self._memory[offset + begin * piece.dtype.itemsize :][: values.nbytes]
                    target.view(piece.dtype).copy_(values, non_blocking=True)
            stream.record(comm.copied)
            self._done = stream.record()

    def _clone(self, piece: Piece) -> Tensor:
        copy = piece.pack(*piece.views).clone()
        self._held.append(copy)  # its memory belongs to the compute stream
        return copy

    def wait(self) -> None:
        """Wait until the copy is there. Any thread may."""
        use_device(self._device)
        if self._done is not None:
            self._done.synchronize()
        self._held = []

    def stream(self) -> Iterator[memoryview]:
        """The bytes of the file."""
        yield memoryview(self.file.header)
        data = view_bytes(self._memory)
        for begin in range(0, len(data), WRITE_BYTES):
            yield data[begin : begin + WRITE_BYTES]

    def close(self) -> None:
        """Unlock the memory, which goes with this object."""
        if self._lock is not None:
            self.wait()
            self._lock()
