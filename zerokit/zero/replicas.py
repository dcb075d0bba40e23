"""Whether the ranks still hold the same values where every rank holds the whole: a bit that flips is found here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zerokit.zero.placement import Placement
from zerokit.zero.states import placement_of

if TYPE_CHECKING:
    from zerokit.zero.engine import Engine

CHUNK = 1 << 22
"""Elements that are widened to 64 bits at a time."""
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
SHOWN = 4


def checksum(values: Tensor) -> Tensor:
    """A number (0-dim int64) that any change of a single element changes, and almost any other change.

    The sum, modulo 2^64, of the elements' bits times odd numbers that grow with their place.
    """
    flat = values.contiguous().view(-1)
    bits = flat.view(INTEGERS[flat.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, len(bits), CHUNK):
        part = bits[start : start + CHUNK].to(torch.int64)
        places = torch.arange(start, start + len(part), dtype=torch.int64, device=flat.device)
        total += (part * (2 * places + 1)).sum()
    return total


class Replicas:
    """Compares checksums of every replicated tensor: of weights, of what completes them to master weights, and of
    optimizer states, as the stage places them; a state that an optimizer keeps whole is replicated at every stage."""

    def __init__(self, engine: Engine):
        self._engine, self._comm = engine, engine.comm
        alone = self._comm.world == 1
        self._tensors = {} if alone else dict(self._replicated())

    def _replicated(self) -> Iterator[tuple[str, Tensor]]:
        engine, stage = self._engine, self._engine.stage
        for unit in engine.units:
            if stage.parameter is Placement.REPLICATE:
                yield from zip(unit.names, unit.views(unit.weight), strict=True)
            if stage.optimizer is Placement.REPLICATE and unit.extra is not None:
                names = (f"{name} (remainder of the master weight)" for name in unit.names)
                yield from zip(names, unit.views(unit.extra), strict=True)
        states = engine.storage.states
        for part in states.slices():
            if placement_of(states.declared[part.name], stage) is Placement.REPLICATE:
                yield f"{part.parameter} (optimizer state {part.name})", part.values

    def __bool__(self) -> bool:
        """Whether anything is replicated."""
        return bool(self._tensors)

    def difference(self) -> str | None:
        """Which rank holds other values than the others, and of what; None if all agree. A collective, with the same
        answer on every rank; the host waits for the device."""
        self._engine.gatherer.settle()
        table = torch.zeros(self._comm.world, len(self._tensors), dtype=torch.int64, device=self._comm.device)
        torch.stack([checksum(tensor) for tensor in self._tensors.values()], out=table[self._comm.rank])
        self._comm.all_reduce(table, kind="verify")
        return describe(list(self._tensors), table.tolist())


def describe(names: list[str], table: list[list[int]]) -> str | None:
    """The difference between ranks (rows of checksums), in words; None if there is none."""
    wrong: dict[tuple[int, ...], list[str]] = {}
    for name, column in zip(names, zip(*table, strict=True), strict=True):
        (value, votes), *others = Counter(column).most_common()
        if others:
            # Without a majority it cannot be told which is right.
            ranks = [r for r, own in enumerate(column) if own != value or votes == others[0][1]]
            wrong.setdefault(tuple(ranks), []).append(name)
    if not wrong:
        return None
    return "; ".join(f"{_who(ranks, len(table))}: {_some(found)}" for ranks, found in wrong.items())


def _who(ranks: tuple[int, ...], world: int) -> str:
    listed = ", ".join(map(str, ranks))
    if len(ranks) == world:
        return f"ranks {listed} differ from each other"
    if len(ranks) == 1:
        return f"rank {listed} differs from the other ranks"
    return f"ranks {listed} differ from the others"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
