"""What a ZeRO stage is: where parameters, gradients and optimizer states lie, and what leads from one home to another.

Pure facts, no tensors. Sources: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models", 2020, section 5; over two axes Zhang et al., "MiCS", 2022, and Wang et al., "ZeRO++", 2023, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

from zerokit.comm.mesh import Mesh


class Placement(Enum):
    """How a unit's flat buffer lies across the ranks along one axis of the mesh."""

    REPLICATE = "replicate"  # every rank holds the same
    PARTIAL = "partial"  # every rank holds values of its own; their sum is the value
    SHARD = "shard"  # every rank holds one of equally long, consecutive parts


R, P, S = Placement.REPLICATE, Placement.PARTIAL, Placement.SHARD


class Collective(Enum):
    """What brings a buffer from one placement to another along an axis."""

    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_REDUCE = "all_reduce"


_COLLECTIVES = {
    (S, R): Collective.ALL_GATHER,
    (P, S): Collective.REDUCE_SCATTER,
    (P, R): Collective.ALL_REDUCE,
}


class Memory(Enum):
    """In which memory of a rank something lies."""

    DEVICE = "device"  # where the model computes
    HOST = "host"  # that of its host, page-locked


@dataclass(frozen=True)
class Home:
    """Where one kind of a unit's state lies.

    over: a placement for each axis of the mesh, outermost first. Which elements that are, says `Layout.held`: the
    innermost axis cuts the whole buffer, the next one cuts each of these shards, and so on.
    memory: where they lie. No collective leads from one memory to another: what is on the host passes through the
    device piece by piece (`zerokit.zero.update.staging`).
    """

    over: tuple[Placement, ...]
    memory: Memory = Memory.DEVICE

    def on(self, mesh: Mesh) -> Home:
        """The same along axes of one rank, where there is nothing to divide or to sum."""
        return replace(self, over=tuple(R if size == 1 else p for p, size in zip(self.over, mesh.sizes, strict=True)))

    @property
    def divided(self) -> bool:
        """Whether a rank holds a part of the elements only."""
        return S in self.over

    @property
    def apart(self) -> bool:
        """Whether ranks hold terms of a sum."""
        return P in self.over

    @property
    def shared(self) -> bool:
        """Whether the ranks along an axis hold the same."""
        return R in self.over

    def replica(self, mesh: Mesh) -> tuple[int, int]:
        """Which one of the ranks that hold the same this is, and how many there are."""
        number, count = 0, 1
        for axis, p in enumerate(self.over):
            if p is R:
                number, count = number * mesh.sizes[axis] + mesh.coordinate(axis), count * mesh.sizes[axis]
        return number, count

    def is_first(self, mesh: Mesh) -> bool:
        """Whether this is the first of the ranks that hold the same: it contributes where values are added up."""
        return self.replica(mesh)[0] == 0

    def has_value(self, mesh: Mesh) -> bool:
        """Whether this rank's term is the whole value where one is written: the others' are zero."""
        return not any(p is P and mesh.coordinate(axis) for axis, p in enumerate(self.over))

    def __str__(self) -> str:
        return " x ".join(p.value for p in self.over)


def everywhere(placement: Placement, mesh: Mesh) -> Home:
    """The home that has one placement along all axes."""
    return Home((placement,) * len(mesh.sizes)).on(mesh)


def whole(mesh: Mesh) -> Home:
    """The home of what every rank has all of."""
    return everywhere(R, mesh)


def own_terms(mesh: Mesh) -> Home:
    """The home of the gradients of a backward pass: every rank has whole ones of its own."""
    return everywhere(P, mesh)


def evenly(mesh: Mesh) -> Home:
    """The home of what is divided among all ranks; part of what a rank holds at any home of a stage."""
    return everywhere(S, mesh)


@dataclass(frozen=True)
class Move:
    """A collective along an axis, from one home to another."""

    collective: Collective
    axis: int
    source: Home
    to: Home


def path(source: Home, destination: Home) -> tuple[Move, ...]:
    """The collectives that bring a buffer from one home to another, in their order. Shards of shards are gathered from
    the outermost axis inwards, sums are divided from the innermost axis outwards: so what travels along an outer axis
    is the smallest. What a rank has already (a part of what is replicated) takes no collective.

    Raises:
        ValueError: no collectives lead there.
    """
    return tuple(_moves(source, destination))


def _moves(source: Home, destination: Home) -> Iterator[Move]:
    pairs = list(zip(source.over, destination.over, strict=True))
    gathers = [axis for axis, (a, b) in enumerate(pairs) if (a, b) == (S, R)]
    sums = [axis for axis, (a, b) in reversed(list(enumerate(pairs))) if a is P and b is not P]
    now = list(source.over)
    for axis in (*gathers, *sums):
        if S in now[:axis]:
            raise ValueError(f"no collective leads from {source} to {destination}: an outer axis cuts what it gives")
        before = Home(tuple(now))
        now[axis] = destination.over[axis]
        yield Move(_COLLECTIVES[pairs[axis]], axis, before, Home(tuple(now)))
    if any(a is not b and (a, b) != (R, S) for a, b in zip(now, destination.over, strict=True)):
        raise ValueError(f"no collective leads from {source} to {destination}")


@dataclass(frozen=True)
class Stage:
    """Homes of a unit's three kinds of state. The paths between them are the whole behaviour of a stage:

    ========================================  ==================================
    when                                      path
    ========================================  ==================================
    after the backward of a micro-batch       own terms → `gradient`
    at the boundary of a step                 `gradient` → `optimizer`
    after the update                          `optimizer` → `parameter`
    before use                                `parameter` → whole
    ========================================  ==================================
    """

    parameter: Home
    gradient: Home
    optimizer: Home

    def on(self, mesh: Mesh, states: str = "group", offload: str = "none") -> Stage:
        """This stage on the ranks of a mesh. Its own row holds along the innermost axis, among groups of ranks; across
        them `STATES[states]`. Kinds of `OFFLOADS[offload]` lie on the host.

        Raises:
            ValueError: nothing is divided in a group, but among all.
        """
        if states == "all" and not self.optimizer.divided and len(mesh.sizes) > 1:
            raise ValueError("zero.shard_size needs something to divide: choose zero=stage1, stage2 or stage3.")
        rows = (*[STATES[states]] * (len(mesh.sizes) - 1), self)

        def home(kind: str) -> Home:
            memory = Memory.HOST if kind in OFFLOADS[offload] else Memory.DEVICE
            return Home(tuple(p for row in rows for p in getattr(row, kind).over), memory).on(mesh)

        return Stage(home("parameter"), home("gradient"), home("optimizer"))


def _row(parameter: Placement, gradient: Placement, optimizer: Placement) -> Stage:
    return Stage(Home((parameter,)), Home((gradient,)), Home((optimizer,)))


STAGES = {
    0: _row(parameter=R, gradient=P, optimizer=R),
    1: _row(parameter=R, gradient=P, optimizer=S),
    2: _row(parameter=R, gradient=S, optimizer=S),
    3: _row(parameter=S, gradient=S, optimizer=S),
}

STATES = {
    "group": _row(parameter=R, gradient=P, optimizer=R),
    "all": _row(parameter=R, gradient=P, optimizer=S),
}
"""Across groups of ranks: each has all optimizer states (MiCS, HSDP), or they are divided among all ranks (hpZ)."""

OFFLOADS: dict[str, tuple[str, ...]] = {"none": (), "states": ("optimizer",)}
"""Which kinds of state lie on the host: of `optimizer`, what an update reads and writes beside weights and gradients,
that is the optimizer's states and what completes weights to the master's (Ren et al., "ZeRO-Offload", 2021)."""
