"""Whether the ranks still hold the same values where every rank holds the whole: a bit that flips is found here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache

import torch
from torch import Tensor

from zerokit.comm.mesh import Mesh
from zerokit.zero.access.parts import EngineParts
from zerokit.zero.placement import Home, Placement

CHUNK = 1 << 22
"""Elements that are widened to 64 bits at a time."""
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
SHOWN = 4


def checksum(values: Tensor, device: torch.device | None = None) -> Tensor:
    """A number (0-dim int64 on `device`) that any change of a single element changes, and almost any other change.

    The sum, modulo 2^64, of the elements' bits times odd numbers that grow with their place.
    """
    flat = values.contiguous().view(-1)
    bits = flat.view(INTEGERS[flat.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=device or flat.device)
    for start in range(0, len(bits), CHUNK):
        part = bits[start : start + CHUNK].to(total.device).to(torch.int64)
        places = torch.arange(start, start + len(part), dtype=torch.int64, device=total.device)
        total += (part * (2 * places + 1)).sum()
    return total


class Replicas:
    """Compares checksums of everything that several ranks hold: weights, what completes them to master weights, and
    optimizer states, wherever the stage has them; a state that an optimizer keeps whole is so at every stage."""

    def __init__(self, engine: EngineParts):
        self._engine, self._comm = engine, engine.comm
        mesh = self._comm.mesh
        found = [] if mesh.world == 1 else [item for item in self._held() if item[1].shared]
        self._tensors = {name: values for name, _, values in found}
        self._groups = {name: _alike(home, mesh) for name, home, _ in found}

    def _held(self) -> Iterator[tuple[str, Home, Tensor]]:
        """The same names on every rank; of some this one may hold nothing."""
        engine, stage, nothing = self._engine, self._engine.stage, torch.empty(0, device=self._comm.device)
        states = engine.storage.states
        slices = {(part.parameter, part.name): part.values for part in states.slices()}
        for unit in engine.units:
            for index, name in enumerate(unit.names):
                yield name, stage.parameter, unit.weight.of(unit.layout, index)[1]
                if unit.extra is not None:
                    extra = unit.extra.of(unit.layout, index)[1]
                    yield f"{name} (remainder of the master weight)", stage.optimizer, extra
                for state in states.rules[unit.layout.groups[index]].states if unit.trainable else ():
                    values = slices.get((name, state.name), nothing)
                    yield f"{name} (optimizer state {state.name})", states.home(state.name), values

    def __bool__(self) -> bool:
        """Whether anything is replicated."""
        return bool(self._tensors)

    def difference(self) -> str | None:
        """Which rank holds other values than the others, and of what; None if all agree. A collective, with the same
        answer on every rank; the host waits for the device."""
        if not self:
            return None
        self._engine.gatherer.settle()
        self._comm.updated()
        device = self._comm.device
        table = torch.zeros(self._comm.world, len(self._tensors), dtype=torch.int64, device=device)
        torch.stack([checksum(tensor, device) for tensor in self._tensors.values()], out=table[self._comm.rank])
        self._comm.all_reduce(table, kind="verify")
        return describe(self._groups, table.tolist())


@cache  # a model has many tensors and few homes
def _alike(home: Home, mesh: Mesh) -> list[list[int]]:
    """The ranks that hold the same, for every part that there is."""
    groups: dict[tuple[int, ...], list[int]] = {}
    divided = [axis for axis, p in enumerate(home.over) if p is not Placement.REPLICATE]
    for member in mesh.ranks:
        groups.setdefault(tuple(map(member.coordinate, divided)), []).append(member.rank)
    return list(groups.values())


def describe(groups: Mapping[str, list[list[int]]], table: list[list[int]]) -> str | None:
    """The difference between ranks (rows of checksums), in words; None if there is none. groups: which ranks should
    have the same, by the names of the columns."""
    wrong: dict[tuple[tuple[int, ...], int], list[str]] = {}
    for (name, alike), column in zip(groups.items(), zip(*table, strict=True), strict=True):
        for ranks in alike:
            (value, votes), *others = Counter(column[rank] for rank in ranks).most_common()
            if others:
                # Without a majority it cannot be told which is right.
                found = [rank for rank in ranks if column[rank] != value or votes == others[0][1]]
                wrong.setdefault((tuple(found), len(ranks)), []).append(name)
    if not wrong:
        return None
    return "; ".join(f"{_who(ranks, count)}: {_some(found)}" for (ranks, count), found in wrong.items())


def _who(ranks: tuple[int, ...], count: int) -> str:
    listed = ", ".join(map(str, ranks))
    if len(ranks) == count:
        return f"ranks {listed} differ from each other"
    if len(ranks) == 1:
        return f"rank {listed} differs from the other ranks"
    return f"ranks {listed} differ from the others"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
