"""What a rank keeps of the tensors that a state is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
CHUNK = 1 << 22
"""Elements that are packed at a time: few launches, little memory beside the state."""


def take(value: Tensor) -> Tensor:
    """The values of a piece that is stored as it is saved."""
    return value


def put(target: Tensor, value: Tensor) -> None:
    """Store the values of a piece that is stored as it is saved."""
    target.copy_(value)


@dataclass(frozen=True)
class Piece:
    """Elements `[start, start + len)` in row-major order of the tensor `name`, as this rank holds them.

    shape, dtype: of the whole tensor. views: flat tensors (n,) the values are made of. pack: views → values (n,) of
    `dtype`; unpack: views, values → None, its inverse. Both work element by element. early: the values change within a
    step, before its update, so a copy beside the training cannot take its time over them.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    dtype: torch.dtype
    views: tuple[Tensor, ...]
    pack: Callable[..., Tensor] = take
    unpack: Callable[..., None] = put
    early: bool = False

    def __len__(self) -> int:
        return self.views[0].numel()

    @property
    def stop(self) -> int:
        """The element after the last."""
        return self.start + len(self)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return len(self) * self.dtype.itemsize

    def part(self, start: int, stop: int) -> Piece:
        """Elements `[start, stop)`, counted within the piece."""
        return replace(self, start=self.start + start, views=tuple(view[start:stop] for view in self.views))

    def share(self, rank: int, world: int) -> Piece:
        """The part that `rank` saves of a piece that every rank holds: as many elements as the others, or one less."""
        return self.part(len(self) * rank // world, len(self) * (rank + 1) // world)

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """Offsets within the piece and values, a few at a time, on the device of the views."""
        for begin in range(0, len(self), CHUNK):
            yield begin, self.pack(*(view[begin : begin + CHUNK] for view in self.views))

    def write(self, begin: int, values: Tensor) -> None:
        """Store values, of any format and device, from offset `begin` within the piece on."""
        views = [view[begin : begin + len(values)] for view in self.views]
        self.unpack(*views, values.to(views[0].device, self.dtype))


def whole(name: str, tensor: Tensor) -> Piece:
    """The piece that is all of a small contiguous tensor, which steps change."""
    return Piece(name, tuple(tensor.shape), 0, tensor.dtype, (tensor.detach().view(-1),), early=True)
