"""A copy of a rank's pieces on the host, taken beside the training, from which the file is written later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from zerokit.comm import Communicator, Stream
from zerokit.comm.pinned import HostMemory
from zerokit.comm.stream import use_device
from zerokit.state.piece import Piece
from zerokit.state.rankfile import RankFile, view_bytes

WRITE_BYTES = 1 << 24


class HostCopy:
    """Host memory for one rank's file, page-locked where the pieces lie on a GPU, and kept from save to save.

    [Note: a snapshot beside the training] The copy runs on a stream of its own after the last update. What writes the
    state waits for it (`Communicator.copied`), in a recorded step too: the next update, and weights put in place of
    others. Nothing else does: forward and backward of the next step read weights only. What they change, `Piece.early`:
    counters, loss scale, buffers, is copied on the device first. The host waits for nothing.
    """

    def __init__(self, file: RankFile, device: torch.device):
        self.file, self._device = file, device
        self._pages = HostMemory(file.data_bytes, device)
        self._memory = self._pages.bytes
        self._stream = Stream(device)
        self._done: Any = None
        self._held: list[Tensor] = []

    @property
    def nbytes(self) -> int:
        """Bytes of host memory."""
        return self._memory.nbytes

    def take(self, comm: Communicator) -> None:
        """Start the copy. The tensors hold what later calls on the compute stream see; see the note above."""
        self._held = []
        comm.updated()
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
        self.wait()
        self._pages.close()
