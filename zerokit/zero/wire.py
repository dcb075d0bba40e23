"""Ways for the gradients of a unit from every rank to the shard of its owner. Both leave the host free.

`CollectiveWire` copies gradients into one flat buffer and lets NCCL or gloo reduce-scatter it. `PeerWire` sends each
stretch straight from where autograd left it into its owner's memory, by the copy engines of the GPUs of one host, and
the owner adds in the format of the stored gradients: no flat copy, no SM taken from the backward pass, and bf16 on the
wire with fp32 sums.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zerokit.comm import Communicator, Stream
from zerokit.comm.peer import PeerMemory
from zerokit.zero.buffer import Buffer, reduce
from zerokit.zero.layout import Span
from zerokit.zero.placement import Move, own_terms, path
from zerokit.zero.rows.gradient import RowRoute
from zerokit.zero.rows.lookup import is_table
from zerokit.zero.storage import Storage, largest_by_ring, ring_of
from zerokit.zero.unit import Slot, Unit

Gradients = Sequence[Tensor | None]


class CollectiveWire:
    """Reductions through flat buffers of `storage.wires`, which units take turns in."""

    landing_bytes = 0

    def __init__(self, storage: Storage, comm: Communicator):
        self._storage, self._comm = storage, comm
        self._micro = path(own_terms(comm.mesh), storage.stage.gradient)
        self._turn = dict.fromkeys(storage.wires, 0)
        self._views: dict[tuple[int, Unit], list[Tensor]] = {}

    def scatter(self, unit: Unit, gradients: Gradients, accumulate: bool) -> None:
        """Sum `gradients` over the ranks into (or onto) the unit's stored ones."""
        wire, moves = self._next(unit), self._micro
        self.write(unit, gradients, wire.buffer, accumulate=False)
        full = Buffer(wire.buffer[: unit.layout.total], Span(0, unit.layout.total))
        stored = unit.gradient.values
        if len(moves) == 1 and not accumulate and stored.dtype == full.values.dtype:
            self._scatter_into(stored, full.values, moves[0])
        else:
            summed, stream = reduce(self._comm, unit.layout, moves, full, self._comm.compute)
            with stream:
                (stored.add_ if accumulate else stored.copy_)(summed.values)
        wire.free = self._comm.stream(moves[-1].axis).record()

    def _scatter_into(self, part: Tensor, full: Tensor, move: Move) -> None:
        written = self._comm.compute.record()
        with self._comm.stream(move.axis) as stream:
            stream.wait(written)
            self._comm.reduce_scatter(part, full, move.axis)

    def reduce(self, unit: Unit, moves: Sequence[Move]) -> Stream:
        """Sum the unit's stored gradients along `moves`; the stream to follow."""
        stored = unit.gradient
        if self._storage.dtypes.wire == stored.values.dtype:  # stored as they travel: reduced where they lie
            return reduce(self._comm, unit.layout, moves, stored, self._written)[1]
        wire = self._next(unit)
        values = wire.buffer[stored.span.start : stored.span.stop]  # where its padding is, too
        free = self._comm.compute.record()
        with self._written as stream:
            stream.wait(free)
            values.copy_(stored.values)
        stream = _reduce_over(self._comm, unit, moves, values, self._written)
        wire.free = stream.record()
        return stream

    @property
    def _written(self) -> Stream:
        """The stream that writes stored gradients."""
        return self._comm.reductions if self._micro else self._comm.compute

    def write(self, unit: Unit, gradients: Gradients, buffer: Tensor, accumulate: bool) -> None:
        """Put (or add) gradients into a whole flat buffer, zeros for those that are missing."""
        key = (id(buffer), unit)  # buffers live as long as this wire; the memory of gradients comes and goes
        if key not in self._views:
            self._views[key] = unit.views(buffer)
        pairs = list(zip(self._views[key], gradients, strict=True))
        missing = [view for view, gradient in pairs if gradient is None]
        if missing and not accumulate:
            torch._foreach_zero_(missing)
        present = [(view, gradient) for view, gradient in pairs if gradient is not None]
        if present:
            apply = torch._foreach_add_ if accumulate else torch._foreach_copy_
            apply(*map(list, zip(*present, strict=True)))

    def finish(self) -> None:
        """Nothing is held for transfers: gradients were copied."""

    def forget_events(self) -> None:
        """Drop the events of the buffers, which are done."""
        for ring in self._storage.wires.values():
            for slot in ring:
                slot.free = None

    def _next(self, unit: Unit) -> Slot:
        kind = ring_of(unit)
        ring = self._storage.wires[kind]
        slot = ring[self._turn[kind] % len(ring)]
        self._turn[kind] += 1
        self._comm.compute.wait(slot.free)
        if slot.owner is not None and slot.owner.layout != unit.layout:
            slot.buffer.zero_()  # padding must be zero, and lay elsewhere
        slot.owner = unit
        return slot


def _reduce_over(comm: Communicator, unit: Unit, moves: Sequence[Move], values: Tensor, written: Stream) -> Stream:
    """Sum the unit's stored gradients, of which `values` are a copy in the format that travels, made on the stream
    `written`; the stream to follow."""
    summed, stream = reduce(comm, unit.layout, moves, Buffer(values, unit.gradient.span), written)
    with stream:
        unit.gradient.at(summed.span).copy_(summed.values)
    return stream


@dataclass
class _Landing:
    """Where what one unit sends lands on every rank; used by one unit after the other.

    start: first element in the peer memory. size: elements per sender. turn: number of the reduction that used it last.
    held: gradients that are still being read.
    """

    start: int
    size: int
    turn: int = -2
    free: object = None
    held: Any = None

    def place(self, sender: int, owner: int, world: int) -> int:
        """Where in the owner's memory what a sender writes begins."""
        return self.start + (sender - owner - 1) % world * self.size


@dataclass(frozen=True)
class _Stretch:
    """Elements `[start, stop)` of parameter `index`, and where they begin in the shard of their owner."""

    index: int
    start: int
    stop: int
    place: int


class StretchRoute:
    """The way of one unit's gradients: each rank sends every owner the stretches of its shard.

    shards: the elements of every peer's shard.
    """

    kind = "reduce_scatter"

    def __init__(self, unit: Unit, memory: PeerMemory, shards: Sequence[Span]):
        self._unit, self._memory, self._rank = unit, memory, memory.rank
        self._plans = [_plan(unit, shard) for shard in shards]
        self._others = [rank for rank in range(len(shards)) if rank != self._rank]

    @staticmethod
    def elements(unit: Unit, shards: Sequence[Span], itemsize: int) -> int:
        """Elements of the landing place of one sender."""
        return len(shards[0])

    def collect(self, gradients: Gradients) -> list[Tensor]:
        """Flat gradients, zeros for those that are missing."""
        pairs = zip(gradients, self._unit.parameters, strict=True)
        return [(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs]

    def nbytes(self, flat: list[Tensor]) -> int:
        """Bytes that are reduced."""
        return self._unit.layout.total * flat[0].element_size()

    def send(self, flat: list[Tensor], starts: list[int]) -> None:
        """Write to every owner its stretches. starts[r]: where this rank's landing place begins at rank r."""
        for owner in (*self._others[self._rank :], *self._others[: self._rank]):  # each begins with its neighbour
            for piece in self._plans[owner]:
                place = starts[owner] + piece.place
                target = self._memory.peers[owner][place : place + piece.stop - piece.start]
                target.copy_(flat[piece.index][piece.start : piece.stop])

    def add(self, flat: list[Tensor], starts: list[int], accumulate: bool) -> None:
        """Write (or add to) this rank's shard the sums of all ranks. starts[r]: where that of rank r has landed."""
        plan = self._plans[self._rank]
        if not plan:
            return
        mine = [flat[p.index][p.start : p.stop] for p in plan]
        gradient = self._unit.gradient.values
        sums = shards = [gradient[p.place : p.place + p.stop - p.start] for p in plan]
        landed = [self._landed(plan, starts[sender]) for sender in self._others]
        if len(landed) == 1 and not accumulate and shards[0].dtype == mine[0].dtype:
            for shard, own, other in zip(shards, mine, landed[0], strict=True):
                torch.add(own, other, out=shard)  # one pass; the only rounding is that of the sum
            return
        rounds = not accumulate and len(landed) > 1 and shards[0].dtype != torch.float32
        if rounds:  # more than one addition: round once, at the end
            sums = [torch.empty_like(s, dtype=torch.float32) for s in shards]
        (torch._foreach_add_ if accumulate else torch._foreach_copy_)(sums, mine)
        for stretches in landed:
            torch._foreach_add_(sums, stretches)
        if rounds:
            torch._foreach_copy_(shards, sums)

    def _landed(self, plan: list[_Stretch], start: int) -> list[Tensor]:
        return [self._memory.local[start + p.place : start + p.place + p.stop - p.start] for p in plan]


def _route(unit: Unit) -> type[StretchRoute | RowRoute]:
    return RowRoute if is_table(unit) else StretchRoute


def _shards(storage: Storage, unit: Unit) -> list[Span]:
    """The elements of the gradient that each peer, a rank along the innermost axis, has."""
    mesh = storage.mesh
    return [unit.layout.held(storage.stage.gradient, mesh.at(rank)) for rank in mesh.row(mesh.innermost)]


def make_wire(storage: Storage, comm: Communicator, peers: bool, slots: int) -> CollectiveWire | PeerWire:
    """The way of gradients to their shards: by peer memory, if asked and possible. slots: of blocks on their way."""
    if peers and [move.axis for move in path(own_terms(comm.mesh), storage.stage.gradient)] == [comm.mesh.innermost]:
        memory = comm.peer_memory(PeerWire.elements(storage, slots), storage.dtypes.weight)
        if memory is not None:
            return PeerWire(storage, comm, memory, slots)
    storage.allocate_wires()
    return CollectiveWire(storage, comm)


class PeerWire:
    """Reductions through the peer memory of the GPUs of one host.

    [Note: one barrier per unit] Every rank sends what unit i's owners need, passes barrier i, and adds what landed.
    Whoever has passed barrier i knows that all ranks have added unit i - 1, as their streams are in order: a landing
    place that unit i + 1 takes is free on every rank if unit i - 1 (or one before it) used it last. If unit i did, as
    two modules that are no blocks may, one more barrier makes sure.
    """

    def __init__(self, storage: Storage, comm: Communicator, memory: PeerMemory, ways: int):
        self._comm, self._memory, self.landing_bytes = comm, memory, memory.nbytes
        self._rings: dict[str, list[_Landing]] = {}
        self._wire_format, start = storage.dtypes.wire, 0
        for kind, size, count in _landing_sizes(storage, ways):
            self._rings[kind] = []
            for _ in range(count):
                self._rings[kind].append(_Landing(start, size))
                start += size * (len(memory.peers) - 1)
        self._turn = dict.fromkeys(self._rings, 0)
        self._reductions = 0
        self._sent: deque[_Landing] = deque()
        self._routes = {unit: _route(unit)(unit, memory, _shards(storage, unit)) for unit in storage.trainable}

    @staticmethod
    def elements(storage: Storage, ways: int) -> int:
        """Elements of peer memory needed."""
        others = storage.mesh.sizes[storage.mesh.innermost] - 1
        return sum(size * count for _, size, count in _landing_sizes(storage, ways)) * others

    def reduce(self, unit: Unit, moves: Sequence[Move]) -> Stream:
        """Sum the unit's shard along `moves`; the stream to follow."""
        comm, stored = self._comm, unit.gradient
        if stored.values.dtype == self._wire_format:
            return reduce(comm, unit.layout, moves, stored, comm.reductions)[1]
        landed = comm.reductions.record()
        with comm.outer as stream:  # whose memory the copy is
            stream.wait(landed)
            values = stored.values.to(self._wire_format)
        return _reduce_over(comm, unit, moves, values, comm.outer)

    def scatter(self, unit: Unit, gradients: Gradients, accumulate: bool) -> None:
        """Sum `gradients` over the peers into (or onto) the unit's shard."""
        world, rank, route = len(self._memory.peers), self._memory.rank, self._routes[unit]
        ring = self._rings[ring_of(unit)]
        landing = ring[self._turn[ring_of(unit)] % len(ring)]
        self._turn[ring_of(unit)] += 1
        self._comm.compute.wait(landing.free)
        if len(self._sent) == 2:  # their gradients may go: by now these transfers hardly keep anybody waiting
            done = self._sent.popleft()
            self._comm.compute.wait(done.free)
            done.held = None
        self._sent.append(landing)
        landing.held = held = route.collect(gradients)
        written = self._comm.compute.record()
        with self._comm.reductions as stream:
            stream.wait(written)
            if landing.turn == self._reductions - 1:
                self._memory.barrier()
            landing.turn = self._reductions
            self._reductions += 1
            route.send(held, [landing.place(rank, owner, world) for owner in range(world)])
            self._memory.barrier()
            route.add(held, [landing.place(sender, rank, world) for sender in range(world)], accumulate)
            landing.free = stream.record()
        self._comm.count(route.kind, route.nbytes(held))

    def finish(self) -> None:
        """Let go of the gradients that were sent: compute follows every transfer."""
        while self._sent:
            self._sent.popleft().held = None

    def forget_events(self) -> None:
        """Drop the events of the landing places, which are done."""
        for ring in self._rings.values():
            for landing in ring:
                landing.free = None


def _landing_sizes(storage: Storage, ways: int) -> list[tuple[str, int, int]]:
    """Per ring: its kind, elements that one rank sends to another, and how many landing places it has."""
    itemsize = storage.dtypes.weight.itemsize
    sizes = largest_by_ring(
        storage.trainable, lambda unit: _route(unit).elements(unit, _shards(storage, unit), itemsize)
    )
    return [(kind, size, ways if kind == "block" else 1) for kind, size in sizes.items()]


def _plan(unit: Unit, shard: Span) -> list[_Stretch]:
    found = []
    for index in range(len(unit.parameters)):
        part, place = unit.layout.overlap(index, shard)
        if len(part):
            found.append(_Stretch(index, part.start, part.stop, place.start - shard.start))
    return found
