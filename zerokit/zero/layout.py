"""Where each parameter of a unit lies in the unit's flat buffer. Pure arithmetic on element counts, no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zerokit.comm.mesh import Mesh
from zerokit.zero.placement import Home, Placement

ALIGNMENT = 64
"""Elements. Parameters and shards start at multiples of it: 128 bytes in bf16, 256 in fp32, enough for TMA (16 bytes),
full cache lines and whole vectors, so that no elementwise kernel ever meets a ragged tail inside a buffer."""


def round_up(count: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `count`."""
    return -(-count // multiple) * multiple


@dataclass(frozen=True)
class Span:
    """Half-open range of elements `[start, stop)` of one hyperparameter group."""

    start: int
    stop: int
    group: int = 0

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __contains__(self, other: Span) -> bool:
        return self.start <= other.start and other.stop <= self.stop

    def cut(self, parts: int, number: int) -> Span:
        """One of equally long, consecutive parts."""
        size = len(self) // parts
        return Span(self.start + number * size, self.start + (number + 1) * size, self.group)

    def clip(self, start: int, stop: int) -> Span:
        """The part of this span inside `[start, stop)`; its length may be zero."""
        low = min(max(self.start, start), stop)
        return Span(low, max(low, min(self.stop, stop)), self.group)


@dataclass(frozen=True)
class Layout:
    """A flat buffer of `total` elements that cuts evenly into a shard for every rank.

    offsets: first element of each parameter, in the order the parameters were given.
    numels: elements of each parameter, without padding.
    groups: hyperparameter group of each parameter.
    spans: the whole buffer cut by hyperparameter group, in ascending order, padding included.
    """

    offsets: tuple[int, ...]
    numels: tuple[int, ...]
    groups: tuple[int, ...]
    spans: tuple[Span, ...]
    total: int

    def held(self, home: Home, mesh: Mesh) -> Span:
        """The elements that a rank holds at a home: the only way from a rank to its elements."""
        span = Span(0, self.total)
        for axis in reversed(range(len(mesh.sizes))):
            if home.over[axis] is Placement.SHARD:
                span = span.cut(mesh.sizes[axis], mesh.coordinate(axis))
        return span

    def padding(self) -> list[Span]:
        """The elements that belong to no parameter, in ascending order."""
        ends = sorted((offset, offset + numel) for offset, numel in zip(self.offsets, self.numels, strict=True))
        starts = [*(start for start, _ in ends), self.total]
        pads = zip((0, *(stop for _, stop in ends)), starts, strict=True)
        return [Span(start, stop) for start, stop in pads if start < stop]

    def overlap(self, index: int, within: Span) -> tuple[Span, Span]:
        """The part of parameter `index` inside a span of the buffer: as elements of the parameter, and of the
        buffer."""
        offset, numel = self.offsets[index], self.numels[index]
        inside = Span(offset, offset + numel).clip(within.start, within.stop)
        return Span(inside.start - offset, inside.stop - offset), inside


def make_layout(numels: Sequence[int], shards: int, groups: Sequence[int] | None = None) -> Layout:
    """Lay parameters of `numels` elements one after the other, those of one hyperparameter group side by side.

    shards: into how many the buffer is to cut evenly. groups: the group of each parameter (all 0 when left out).
    """
    groups = [0] * len(numels) if groups is None else groups
    assert len(groups) == len(numels) and shards >= 1
    offsets = [0] * len(numels)
    spans: list[Span] = []
    cursor = 0
    for index in sorted(range(len(numels)), key=lambda i: groups[i]):
        offsets[index] = cursor
        end = cursor + round_up(numels[index], ALIGNMENT)
        if spans and spans[-1].group == groups[index]:
            spans[-1] = Span(spans[-1].start, end, groups[index])
        else:
            spans.append(Span(cursor, end, groups[index]))
        cursor = end
    total = round_up(cursor, ALIGNMENT * shards)
    if spans:
        spans[-1] = Span(spans[-1].start, total, spans[-1].group)
    return Layout(tuple(offsets), tuple(numels), tuple(groups), tuple(spans), total)
