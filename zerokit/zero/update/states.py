"""Memory of the optimizer's states: one arena per state, in which each rank holds what it updates.

A state may have another format than the weights and fewer values than elements (one per block), and exist in some
hyperparameter groups only. Blocks are never cut: parameters and shards start at multiples of `layout.ALIGNMENT`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zerokit.comm.mesh import Mesh
from zerokit.zero.layout import ALIGNMENT, Span
from zerokit.zero.placement import Home, Placement, Stage, everywhere, whole
from zerokit.zero.unit import Unit


class State(Protocol):
    """A state that an optimizer declares: see `zerokit.optimizer._base.State`."""

    name: str
    dtype: str
    per: int
    initial: float | str
    along: str | None
    placement: str | None
    travels: bool


@dataclass(frozen=True)
class StateSlice:
    """This rank's part of one state of one parameter, enough to save it and to divide it otherwise.

    name: of the state; parameter: its name in the model.
    size: values of the whole state, in the order of the parameter's elements; a state along rows or columns, or of the
        whole parameter, has fewer and is whole on every rank.
    start: place of the first value in the whole; values: (n,), a view of the memory.
    """

    name: str
    parameter: str
    size: int
    start: int
    values: Tensor


def home_of(state: State, stage: Stage, mesh: Mesh) -> Home:
    """Where a state lies: with the elements that a rank updates, unless it has a placement of its own."""
    if state.along is not None:
        return whole(mesh)
    return stage.optimizer if state.placement is None else everywhere(Placement(state.placement), mesh)


def matrix_shape(shape: torch.Size) -> tuple[int, int]:
    """Rows and columns of a parameter seen as a matrix: its first dimension by all others; a vector is one row."""
    if len(shape) < 2:
        return 1, max(1, shape.numel())
    return shape[0], shape.numel() // max(1, shape[0])


def length_along(along: str, shape: torch.Size) -> int:
    """Values of a state or sum that a parameter of this shape has as a whole."""
    rows, columns = matrix_shape(shape)
    return {"rows": rows, "columns": columns, "all": 1}[along]


def divided(states: Sequence[State]) -> list[State]:
    """Those that are divided with the elements."""
    return [state for state in states if state.along is None]


def of_elements(states: Sequence[State]) -> list[State]:
    """Those that a rank holds for just the elements that it updates."""
    return [state for state in divided(states) if state.placement is None]


def _first(state: State) -> float:
    return 0.0 if state.initial == "parameter" else state.initial


class States:
    """The states of `units` (all trainable), as the rules of their hyperparameter groups declare them.

    rules: of each group, with `states` and `kept`.
    arenas: by name; `kept`: by name, one float64 number per group. on_host: arenas of units that are `away`; empty
    until `take`.
    """

    def __init__(self, units: Sequence[Unit], stage: Stage, rules: Sequence, mesh: Mesh, device: torch.device):
        self.units, self.stage, self.mesh, self.rules = units, stage, mesh, rules
        declared: dict[str, State] = {}
        for rule in rules:
            for state in rule.states:
                assert ALIGNMENT % state.per == 0, f"blocks of {state.per} elements would be cut"
                assert declared.setdefault(state.name, state) == state, f"two states are called {state.name}"
        self.declared = declared
        self._starts: dict[tuple[str, Unit], dict[Span, int]] = {}
        self.arenas: dict[str, Tensor] = {}
        self.on_host: dict[str, Tensor] = {}
        self._sizes_on_host: dict[str, int] = {}
        for name, state in declared.items():
            size, self._sizes_on_host[name] = self._place(state)
            self.arenas[name] = torch.full((size,), _first(state), dtype=getattr(torch, state.dtype), device=device)
        self.kept: dict[str, Tensor] = {}
        for index, rule in enumerate(rules):
            for name, value in rule.kept.items():
                if name not in self.kept:
                    self.kept[name] = torch.zeros(len(rules), dtype=torch.float64, device=device)
                self.kept[name][index] = value

    def _place(self, state: State) -> tuple[int, int]:
        """Note where each part of a state begins in its arena; the lengths of that on the device and that on the
        host."""
        if state.along is not None:
            return sum(self.length_of(state, group) for group in range(len(self.rules))), 0
        cursors = [0, 0]
        for unit in self.units:
            starts = self._starts[state.name, unit] = {}
            for part in self._parts(unit, state.name):
                starts[part] = cursors[self.is_away(state, unit)]
                cursors[self.is_away(state, unit)] += len(part) // state.per
        return cursors[0], cursors[1]

    @staticmethod
    def is_away(state: State, unit: Unit) -> bool:
        """Whether a state of a unit lies on the host: not what ranks exchange, nor what is small."""
        return unit.away and state.along is None and not state.travels

    @property
    def host_sizes(self) -> dict[str, int]:
        """Bytes on the host by state."""
        return {n: size * getattr(torch, self.declared[n].dtype).itemsize for n, size in self._sizes_on_host.items()}

    def take(self, memory: Callable[[int], Tensor]) -> None:
        """Have the arenas on the host. memory: bytes (n,) of it, zeros."""
        for name, size in self.host_sizes.items():
            if size:
                state = self.declared[name]
                self.on_host[name] = memory(size).view(getattr(torch, state.dtype))
                if _first(state):
                    self.on_host[name].fill_(_first(state))

    def _has(self, group: int, name: str) -> bool:
        return any(state.name == name for state in self.rules[group].states)

    def _parts(self, unit: Unit, name: str) -> list[Span]:
        mine = unit.layout.held(self.home(name), self.mesh)
        parts = [span.clip(mine.start, mine.stop) for span in unit.layout.spans if self._has(span.group, name)]
        return [part for part in parts if len(part)]

    def home(self, name: str) -> Home:
        """Where a state lies."""
        return home_of(self.declared[name], self.stage, self.mesh)

    def members(self, group: int) -> list[tuple[Unit, int]]:
        """The parameters of a hyperparameter group, as units and places in them."""
        return [(u, i) for u in self.units for i in range(len(u.names)) if u.layout.groups[i] == group]

    def length_of(self, state: State, group: int) -> int:
        """Values of a state that is whole on every rank, over a group's parameters."""
        if not self._has(group, state.name):
            return 0
        return sum(length_along(state.along, unit.shapes[index]) for unit, index in self.members(group))

    def whole(self, name: str, group: int) -> Tensor:
        """The values of a state that is whole on every rank, of a group's `members` one after the other."""
        state = self.declared[name]
        start = sum(self.length_of(state, before) for before in range(group))
        return self.arenas[name][start : start + self.length_of(state, group)]

    def views(self, unit: Unit, span: Span) -> tuple[Tensor, ...]:
        """The states of elements of a unit's buffer, of one group, which this rank updates."""
        return tuple(self._view(state, unit, span) for state in of_elements(self.rules[span.group].states))

    def _view(self, state: State, unit: Unit, span: Span) -> Tensor:
        part, place = next((p, place) for p, place in self._starts[state.name, unit].items() if span in p)
        begin, length = place + (span.start - part.start) // state.per, -(-len(span) // state.per)
        arenas = self.on_host if self.is_away(state, unit) else self.arenas
        return arenas[state.name][begin : begin + length]

    def of_unit(self, name: str, unit: Unit) -> Tensor:
        """All that this rank holds of a state of a unit, in the order of its buffer; all its groups have the state."""
        starts = self._starts[name, unit]
        begin, length = min(starts.values()), sum(len(part) for part in starts)
        assert self.declared[name].per == 1 and not self.is_away(self.declared[name], unit)
        assert length == len(unit.layout.held(self.home(name), self.mesh))
        return self.arenas[name][begin : begin + length]

    def slices(self) -> list[StateSlice]:
        """Every state of every parameter, as far as this rank holds it; `kept` comes beside them."""
        return [*self._divided_slices(), *self._whole_slices()]

    def _divided_slices(self) -> Iterator[StateSlice]:
        for unit in self.units:
            for index, name in enumerate(unit.names):
                for state in divided(self.rules[unit.layout.groups[index]].states):
                    inside, place = unit.layout.overlap(index, unit.layout.held(self.home(state.name), self.mesh))
                    if len(inside):
                        size = -(-unit.layout.numels[index] // state.per)
                        values = self._view(state, unit, place)
                        yield StateSlice(state.name, name, size, inside.start // state.per, values)

    def _whole_slices(self) -> Iterator[StateSlice]:
        for group, rule in enumerate(self.rules):
            for state in (state for state in rule.states if state.along is not None):
                members = self.members(group)
                sizes = [length_along(state.along, unit.shapes[index]) for unit, index in members]
                for (unit, index), values in zip(members, self.whole(state.name, group).split(sizes), strict=True):
                    yield StateSlice(state.name, unit.names[index], len(values), 0, values)

    @property
    def nbytes(self) -> int:
        """Bytes of all states on the device."""
        return sum(t.nbytes for t in (*self.arenas.values(), *self.kept.values()))

    def nbytes_at(self, stage: Stage) -> int:
        """Bytes that they would take at another stage; nothing is allocated."""
        total = sum(kept.nbytes for kept in self.kept.values())
        for unit in self.units:
            for span in unit.layout.spans:
                for state in divided(self.rules[span.group].states):
                    mine = unit.layout.held(home_of(state, stage, self.mesh), self.mesh)
                    size = getattr(torch, state.dtype).itemsize
                    total += len(span.clip(mine.start, mine.stop)) // state.per * size
        return total + sum(self.arenas[s.name].nbytes for s in self.declared.values() if s.along is not None)
