"""The gradient of an embedding travels as the rows that a micro-batch used, through the peer memory of one host.

A table of 128,256 rows gets gradients for at most as many as a micro-batch has tokens, most often a few per cent. So
autograd never makes the table's gradient: every rank sums what belongs to the same row, writes the sums to the ranks
that own those rows, and each owner writes its shard in one pass, zeros where nobody used the row. Addends are taken in
the same order and rounded as often as in `wire.PeerWire`'s other way, so this changes no bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zerokit.comm.peer import PeerMemory
from zerokit.zero.layout import ALIGNMENT, Span, round_up
from zerokit.zero.rows.lookup import addresses, on_device
from zerokit.zero.unit import Unit


@dataclass(frozen=True)
class RowSums:
    """Sums over equal tokens, in ascending order of rows.

    values: (n, dim), the first `used` of which count (0-dim, on the device). ids: (n,) the row of each.
    places: (rows of the table,) where in `values` each row is, -1 where nothing is.
    """

    values: Tensor
    ids: Tensor
    used: Tensor
    places: Tensor


class RowPlan:
    """Which rows of a table, whose elements are cut evenly into `shards` of the ranks, touch each of them."""

    def __init__(self, unit: Unit, shards: Sequence[Span]):
        self.rows, self.dim = unit.shapes[0]
        self.shard, self.size = len(shards[0]), self.rows * self.dim
        spans = [unit.layout.overlap(0, shard)[0] for shard in shards]
        self.first = [min(span.start // self.dim, self.rows - 1) for span in spans]
        self.count = [
            -(-span.stop // self.dim) - first if len(span) else 0 for span, first in zip(spans, self.first, strict=True)
        ]

    @property
    def landing(self) -> tuple[int, int]:
        """The most that one rank sends to another: elements of sums, and places (int32)."""
        rows = max(self.count)
        return round_up(rows * self.dim, ALIGNMENT), round_up(rows, ALIGNMENT)


class RowRoute:
    """The way of one embedding's gradient. Has the methods of `wire.StretchRoute`."""

    kind = "row_sums"

    def __init__(self, unit: Unit, memory: PeerMemory, shards: Sequence[Span]):
        self._unit, self._memory, self._rank = unit, memory, memory.rank
        self._plan = RowPlan(unit, shards)
        unit.rows = []  # from here on its module leaves gradients there
        self._others = [rank for rank in range(len(shards)) if rank != self._rank]

    @staticmethod
    def elements(unit: Unit, shards: Sequence[Span], itemsize: int) -> int:
        """Elements of the landing place of one sender."""
        sums, places = RowPlan(unit, shards).landing
        return sums + places * 4 // itemsize

    def collect(self, gradients: list[Tensor | None]) -> RowSums:
        """Sum what the backward pass left, on the current stream."""
        unit, plan = self._unit, self._plan
        pieces, unit.rows = unit.rows, []
        (whole,) = gradients
        if whole is not None:  # the weight was used by other means as well
            pieces.append((torch.arange(plan.rows, device=whole.device), whole))
        if not pieces:
            parameter = unit.parameters[0]
            empty = torch.zeros(0, dtype=torch.int64, device=parameter.device)
            pieces.append((empty, parameter.new_zeros(0, plan.dim)))
        tokens, upstream = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*pieces, strict=True))
        return sum_rows(tokens, upstream, plan.rows)

    def nbytes(self, sums: RowSums) -> int:
        """Bytes that travel at the most."""
        return sums.values.nbytes

    def send(self, sums: RowSums, starts: list[int]) -> None:
        """Write to each owner its rows and where they are. starts[r]: where this rank's landing place begins at r."""
        plan, space = self._plan, self._plan.landing[0]
        before = torch.cumsum(sums.places >= 0, 0, dtype=torch.int32)
        firsts = on_device(tuple(plan.first), before.device)
        bases = before[firsts] - (sums.places[firsts] >= 0).int()  # rows in use before each owner's first
        targets = [self._memory.peers[r][starts[r] : starts[r] + space] for r in self._others]
        if len(sums.values):
            send_rows(targets, sums.values, sums.ids, sums.used, bases, plan.shard, self._rank)
        for rank in self._others:
            mine = sums.places[plan.first[rank] : plan.first[rank] + plan.count[rank]]
            moved = torch.where(mine >= 0, mine - bases[rank], mine)
            start = starts[rank] + space
            _as_places(self._memory.peers[rank], start, plan.count[rank]).copy_(moved)

    def add(self, sums: RowSums, starts: list[int], accumulate: bool) -> None:
        """Write (or add to) this rank's shard the sums of all ranks. starts[r]: where that of rank r has landed."""
        plan, rank, local = self._plan, self._rank, self._memory.local
        space, count, first = plan.landing[0], plan.count[rank], plan.first[rank]
        if count:
            landed = [local[starts[r] : starts[r] + space] for r in self._others]
            places = [_as_places(local, starts[r] + space, count) for r in self._others]
            own = sums.places[first : first + count]
            stop = min(plan.size - rank * plan.shard, plan.shard)
            start = rank * plan.shard - first * plan.dim
            add_rows(self._unit.gradient.values[:stop], sums.values, own, landed, places, start, accumulate)


def sum_rows(tokens: Tensor, upstream: Tensor, rows: int) -> RowSums:
    """Sum the rows of `upstream` (n, dim) that have equal `tokens` (n,) in [0, rows). Nothing waits for the device."""
    tokens = tokens.long()
    in_use = torch.zeros(rows, dtype=torch.int32, device=tokens.device).index_fill_(0, tokens, 1)
    places = in_use.cumsum(0, dtype=torch.int32) - 1
    size = min(len(tokens), rows)
    inverse = places[tokens].long()
    values = torch.ops.aten.embedding_dense_backward(upstream, inverse, size, -1, False) if size else upstream
    ids = torch.zeros(size, dtype=torch.int64, device=tokens.device).scatter_(0, inverse, tokens)
    return RowSums(values, ids, places[-1] + 1, torch.where(in_use > 0, places, -1))


def _as_places(memory: Tensor, start: int, count: int) -> Tensor:
    """`count` integers (int32) at element `start` of a flat buffer of another format."""
    width = 4 // memory.element_size()
    return memory[start : start + count * width].view(torch.int32)


@torch.library.custom_op("zerokit::send_rows", mutates_args=("targets",))
def send_rows(
    targets: list[Tensor], values: Tensor, ids: Tensor, used: Tensor, bases: Tensor, shard: int, own: int
) -> None:
    """Write the first `used` rows of `values`, rows `ids` of the table, to those who own them.

    targets: the landing places at all ranks but `own`, in order. Row i goes to place i - bases[owner] of it.
    """
    if values.is_cuda:
        from zerokit.zero.rows import kernels  # needs Triton, which only GPUs have

        there = addresses([*targets[:own], values[:0], *targets[own:]], values.device)
        grid, columns = kernels.grid(*values.shape)
        kernels.send_rows[grid](values, ids, used, bases, there, values.shape[1], shard, own, columns)
        return
    dim, owners = values.shape[1], [rank for rank in range(len(bases)) if rank != own]
    count = int(used)
    element = ids[:count, None] * dim + torch.arange(dim)
    for target, owner in zip(targets, owners, strict=True):
        inside = element // shard == owner
        place = (torch.arange(count)[:, None] - bases[owner]) * dim + torch.arange(dim)
        target[place[inside]] = values[:count][inside]


@send_rows.register_fake
def _(targets: list[Tensor], *_: object) -> None:
    return None


@torch.library.custom_op("zerokit::add_rows", mutates_args=("gradient",))
def add_rows(
    gradient: Tensor,
    values: Tensor,
    own: Tensor,
    landed: list[Tensor],
    places: list[Tensor],
    start: int,
    accumulate: bool,
) -> None:
    """gradient (n,) = (gradient +) the sums of this rank and those that `landed`, added in fp32, rounded once.

    The gradient begins at element `start` of the first row that `own` and `places` (rows,) speak of; they say where in
    `values` and `landed` each row is, -1 for nowhere.
    """
    dim = values.shape[1]
    if gradient.is_cuda:
        from zerokit.zero.rows import kernels  # needs Triton, which only GPUs have

        there, where = addresses(landed, gradient.device), addresses(places, gradient.device)
        grid, columns = kernels.grid(len(own), dim)
        kernels.add_rows[grid](
            gradient, values, own, there, where, start, len(gradient), dim, len(landed), accumulate, columns
        )
        return
    sums = torch.zeros(len(own), dim)
    if accumulate:
        sums.view(-1)[start : start + len(gradient)] = gradient.float()
    for rows, place in ((values, own), *zip(landed, places, strict=True)):
        here = place >= 0
        rows = rows.reshape(-1)[: rows.numel() // dim * dim].view(-1, dim)
        sums[here] += rows[place[here].long()].float()
    gradient.copy_(sums.view(-1)[start : start + len(gradient)])


@add_rows.register_fake
def _(gradient: Tensor, *_: object) -> None:
    return None
