"""How ranks lie on a mesh of one or more axes. Pure arithmetic, no process groups."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Mesh:
    """sizes: ranks along each axis, outermost first. rank: this one; ranks that follow each other are neighbours along
    the innermost axis."""

    sizes: tuple[int, ...]
    rank: int = 0

    @property
    def world(self) -> int:
        """All ranks."""
        return math.prod(self.sizes)

    @property
    def innermost(self) -> int:
        """The axis along which neighbours lie, those of one host."""
        return len(self.sizes) - 1

    def stride(self, axis: int) -> int:
        """How far apart in number two neighbours along an axis are."""
        return math.prod(self.sizes[axis + 1 :])

    def coordinate(self, axis: int) -> int:
        """The place of this rank along an axis."""
        return self.rank // self.stride(axis) % self.sizes[axis]

    def at(self, rank: int) -> Mesh:
        """The mesh as another rank sees it."""
        return replace(self, rank=rank)

    @property
    def ranks(self) -> list[Mesh]:
        """The mesh as every rank sees it."""
        return [self.at(rank) for rank in range(self.world)]

    def row(self, axis: int) -> list[int]:
        """The ranks along an axis through this one, in their order."""
        stride = self.stride(axis)
        first = self.rank - self.coordinate(axis) * stride
        return [first + place * stride for place in range(self.sizes[axis])]

    def rows(self, axis: int) -> list[list[int]]:
        """All rows along an axis; every rank is in one of them."""
        return [mesh.row(axis) for mesh in self.ranks if mesh.coordinate(axis) == 0]


def make_mesh(world: int, rank: int = 0, shard_size: int | None = None) -> Mesh:
    """One axis of all ranks; or two, of which the inner one has `shard_size` ranks.

    Raises:
        ValueError: `shard_size` does not divide `world`.
    """
    if shard_size is None:
        return Mesh((world,), rank)
    if shard_size < 1 or world % shard_size:
        raise ValueError(f"{world} ranks cannot be divided into groups of {shard_size}.")
    return Mesh((world // shard_size, shard_size), rank)
