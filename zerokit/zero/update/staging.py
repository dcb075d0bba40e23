"""What lies on the host passes through the device piece by piece, while other pieces are updated.

[Note: staging] A part of which something is `away` is copied to one of a few places on the device, updated there, and
copied back. Copies in, updates and copies back have a stream each, so that both directions of the link and the kernel
work at once, and a place is taken again when it has been copied back. Parts come in the order of the next use of their
units: the forward pass starts when the first are updated and hides the others. No value changes: kernels are the same,
element by element.

Bytes per step and direction are those of what is away; for AdamW with bf16 weights 10 per parameter (2 of the master
weight's remainder, 8 of the moments).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from zerokit.comm import Communicator, Stream
from zerokit.zero.update.part import Part

PLACES = 4
"""Parts on the device at once: one arrives, one is updated, one leaves, and one between them."""
ELEMENTS = 2**23
"""Of a part that is copied at once on a GPU: 80 MB with AdamW, which takes the link some 2 ms and the host 0.1."""


@dataclass(eq=False)
class _Place:
    """Memory for one part: bytes for each tensor of it, apart, since the compiler refuses to write to views of several
    formats of one tensor. ready, done, free: events of its arrival, its update and its return."""

    buffers: list[Tensor]
    ready: Any = None
    done: Any = None
    free: Any = None


class Staging:
    """Runs kernels on parts, wherever what they work on lies.

    parts: all that it will run on, of which the largest decides how much memory the places take.
    """

    def __init__(self, comm: Communicator, parts: Iterable[Part]):
        self._comm = comm
        sizes = [max(same) for same in zip_longest(*([t.nbytes for t in part.away] for part in parts), fillvalue=0)]
        make = partial(torch.empty, dtype=torch.uint8, device=comm.device)
        self._places = [_Place([make(size) for size in sizes]) for _ in range(PLACES if sizes else 0)]
        self._next = 0

    @property
    def buffers(self) -> list[Tensor]:
        """The memory of the places."""
        return [buffer for place in self._places for buffer in place.buffers]

    def begin(self) -> None:
        """Before parts are run once more: what comes follows all that has gone back, and the compute stream."""
        if self._places:
            self._comm.fetches.wait(self._comm.compute.record())
            self._comm.fetches.wait(self._comm.returns.record())

    def run(self, kernel: Callable, stream: Stream, part: Part, *numbers: Any) -> Any:
        """What a kernel makes of a part on `stream`, on which the caller works. numbers: scalars, scale and `ok`."""
        if not part.away:
            return _call(kernel, part, *numbers)
        with self.here(part, stream) as here:
            return _call(kernel, here, *numbers)

    @contextmanager
    def here(self, part: Part, stream: Stream) -> Iterator[Part]:
        """A part with all of it on the device, for the time of a block in which `stream` works on it."""
        if not part.away:
            yield part
            return
        place = self._places[self._next]
        self._next = (self._next + 1) % len(self._places)
        views = _like(part.away, place)
        with self._comm.fetches as fetches:
            fetches.wait(place.free)
            for view, source in zip(views, part.away, strict=True):
                self._comm.fetch(view, source)
            place.ready = fetches.record(place.ready)
        stream.wait(place.ready)
        try:
            yield _with(part, views)
        finally:
            place.done = stream.record(place.done)
            with self._comm.returns as returns:
                returns.wait(place.done)
                for target, view in zip(part.away, views, strict=True):
                    self._comm.give_back(target, view)
                place.free = returns.record(place.free)

    def forget_events(self) -> None:
        """Everything issued is done (before and after recording a CUDA graph)."""
        for place in self._places:
            place.ready = place.done = place.free = None


def _call(kernel: Callable, part: Part, scalars: dict, scale: Tensor, ok: Tensor) -> Any:
    return kernel(part.weight, part.extra, part.gradient, part.state, scalars, part.known, scale, ok)


def _like(tensors: Sequence[Tensor], place: _Place) -> list[Tensor]:
    """Views of a place's memory, in the formats and shapes of `tensors`."""
    return [b[: t.nbytes].view(t.dtype).view(t.shape) for t, b in zip(tensors, place.buffers, strict=False)]


def _with(part: Part, views: list[Tensor]) -> Part:
    """The part with `views` in the places of what is away."""
    found: Iterator[Tensor] = iter(views)
    away = {id(tensor) for tensor in part.away}
    extra = next(found) if id(part.extra) in away else part.extra
    return replace(part, extra=extra, state=tuple(next(found) if id(s) in away else s for s in part.state), away=())
