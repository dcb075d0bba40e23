"""Flat memory of a unit's elements: what one rank holds at a home, and how it gets to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zerokit.comm import Communicator, Stream
from zerokit.zero.layout import Layout, Span
from zerokit.zero.placement import Collective, Home, Move, path, whole


@dataclass(eq=False)
class Buffer:
    """values: (len(span),) the elements `span` of the unit's layout."""

    values: Tensor
    span: Span

    def at(self, span: Span) -> Tensor:
        """A view of some of the elements."""
        assert span in self.span, f"{span} does not lie in {self.span}"
        return self.values[span.start - self.span.start : span.stop - self.span.start]

    def of(self, layout: Layout, index: int) -> tuple[Span, Tensor]:
        """What is here of a parameter: which of its elements, and a view of them; perhaps none."""
        inside, place = layout.overlap(index, self.span)
        return inside, self.at(place)


def gather(comm: Communicator, layout: Layout, home: Home, values: Tensor) -> Tensor:
    """The whole buffer (layout.total,) from what every rank holds at `home`; `values` themselves if that is all."""
    for move in path(home, whole(comm.mesh)):
        full = torch.empty(len(layout.held(move.to, comm.mesh)), dtype=values.dtype, device=values.device)
        comm.all_gather(full, values, move.axis)
        values = full
    return values


def reduce(comm: Communicator, layout: Layout, moves: Sequence[Move], buffer: Buffer,
           written: Stream) -> tuple[Buffer, Stream]:  # fmt: skip
    """Sum a buffer along `moves` where it lies; the part of it that is the result, and the stream to follow. written:
    the stream that has written the buffer."""
    stream, done = written, written.record()
    for move in moves:
        stream = comm.stream(move.axis)
        with stream:
            stream.wait(done)
            if move.collective is Collective.ALL_REDUCE:
                comm.all_reduce(buffer.values, axis=move.axis)
            else:
                span = layout.held(move.to, comm.mesh)
                part = Buffer(buffer.at(span), span)
                comm.reduce_scatter(part.values, buffer.values, move.axis)
                buffer = part
            done = stream.record()
    return buffer, stream
