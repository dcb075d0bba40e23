"""The pieces of one rank as the bytes of a safetensors file. Format: github.com/huggingface/safetensors, README."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from zerokit.state.piece import NAMES, Piece


def file_name(rank: int, world: int) -> str:
    """Name of a rank's file."""
    return f"rank-{rank:05d}-of-{world:05d}.safetensors"


def view_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor. Valid as long as the tensor lives. Works without NumPy."""
    return memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")


def header(entries: Sequence[tuple[str, str, tuple[int, ...], int]], metadata: dict[str, str] | None = None) -> bytes:
    """How a safetensors file begins. entries: name, format, shape and bytes of each tensor, in their order."""
    described: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, dtype, shape, size in entries:
        described[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


class RankFile:
    """Where each piece lies in the file of a rank: wide formats first, so that every piece is aligned."""

    def __init__(self, pieces: Sequence[Piece]):
        kept = [piece for piece in pieces if len(piece)]
        self.pieces = sorted(kept, key=lambda piece: (-piece.dtype.itemsize, piece.name))
        names = [piece.name for piece in self.pieces]
        assert len(set(names)) == len(names), "a rank has one piece of a tensor"
        self.offsets: list[int] = []
        self.data_bytes = 0
        for piece in self.pieces:
            self.offsets.append(self.data_bytes)
            self.data_bytes += piece.nbytes
        self.header = header([(p.name, NAMES[p.dtype], (len(p),), p.nbytes) for p in self.pieces])

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self.header) + self.data_bytes

    def describe(self) -> list[tuple[str, str, tuple[int, ...], int, int]]:
        """Name, format, whole shape, start and stop of each piece."""
        return [(p.name, NAMES[p.dtype], p.shape, p.start, p.stop) for p in self.pieces]

    def stream(self) -> Iterator[memoryview]:
        """The bytes of the file, packed on the way; the memory of one chunk is valid until the next."""
        yield memoryview(self.header)
        for piece in self.pieces:
            for _, values in piece.chunks():
                values = values.cpu().contiguous()
                yield view_bytes(values)
