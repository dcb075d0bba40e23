"""Passes of an optimizer before the one that writes the weights, and how their results meet those of other ranks.

A phase runs over this rank's pieces of each parameter of one hyperparameter group. Its results are either added up
over each parameter (`Sums`), or put together to whole matrices on one rank each (`Matrices`). Neither knows the stage:
what a rank updates follows from the placement of the optimizer's states, and of everything that several ranks hold,
each rank counts its own shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from zerokit.comm import Communicator
from zerokit.zero.layout import Span
from zerokit.zero.placement import evenly
from zerokit.zero.storage import Storage
from zerokit.zero.unit import Unit
from zerokit.zero.update.staging import Staging
from zerokit.zero.update.states import length_along, matrix_shape
from zerokit.zero.update.unused import Unused

WAVE = 2**27
"""Elements per rank of the matrices that travel at once: bounds the memory of `Matrices`."""


@dataclass(frozen=True)
class Piece:
    """Consecutive elements of one parameter that this rank updates, a rectangle of the parameter seen as a matrix.

    span: where they lie in the unit's buffer. start: first element in the parameter. counted: this rank counts them,
    of those that hold them.
    """

    unit: Unit
    index: int
    span: Span
    start: int
    counted: bool
    rows: slice
    columns: slice

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def rectangles(start: int, stop: int, columns: int, limit: int) -> Iterator[tuple[int, int]]:
    """Cut elements `[start, stop)` of a matrix with `columns` columns into parts of one row and blocks of whole rows,
    of at most `limit` elements each."""
    while start < stop:
        height = min(stop - start, limit) // columns
        if start % columns or not height:
            end = min(stop, start + limit, (start // columns + 1) * columns)
        else:
            end = start + height * columns
        yield start, end
        start = end


def pieces_of(storage: Storage, unit: Unit, within: Span, matrices: bool, limit: int | None) -> Iterator[Piece]:
    """A span cut at the borders of parameters and of what this rank counts, then into rectangles.

    matrices: parameters count as matrices, else as one row each. limit: elements per piece.
    """
    mine = unit.layout.held(evenly(storage.mesh), storage.mesh)
    borders = sorted({within.start, within.stop, mine.start, mine.stop})
    for index in range(len(unit.parameters)):
        rows, columns = matrix_shape(unit.shapes[index])
        columns = columns if matrices else rows * columns
        for low, high in zip(borders, borders[1:], strict=False):
            if Span(low, high) not in within:
                continue
            inside, there = unit.layout.overlap(index, Span(low, high))
            for start, stop in rectangles(inside.start, inside.stop, columns, limit or max(1, len(inside))):
                place = there.start + start - inside.start
                first, last = start // columns, (stop - 1) // columns
                left = start % columns
                yield Piece(
                    unit,
                    index,
                    Span(place, place + stop - start, within.group),
                    start,
                    mine.start <= low < mine.stop,
                    slice(first, last + 1),
                    slice(left, left + (stop - start) // (last + 1 - first)),
                )


class Sums:
    """A phase whose results are added up over each parameter and all ranks: one all-reduce."""

    def __init__(self, storage: Storage, rule: Any, group: int, phase: Any, pieces: Sequence, comm: Communicator,
                 kernel: Callable, unused: Unused | None, staging: Staging):  # fmt: skip
        self._rule, self._comm, self._kernel, self._staging = rule, comm, kernel, staging
        members = storage.states.members(group)
        sizes = {n: [length_along(a, unit.shapes[i]) for unit, i in members] for n, a in phase.sums.items()}
        self._flat = torch.zeros(sum(map(sum, sizes.values())), dtype=torch.float32, device=storage.device)
        totals = dict(zip(sizes, self._flat.split([sum(s) for s in sizes.values()]), strict=True))
        kept = {state.name for state in rule.states if state.along is not None}
        self._sizes, self._numbers = sizes, [None if unused is None else unused.numbers[member] for member in members]
        self._states = {n: (storage.states.whole(n, group), total) for n, total in totals.items() if n in kept}
        self._targets: list[tuple[Any, dict[str, Tensor]]] = []
        places = {member: number for number, member in enumerate(members)}
        views = {n: total.split(sizes[n]) for n, total in totals.items()}
        shown = {n: self._states[n][0].split(sizes[n]) if n in self._states else views[n] for n in totals}
        for piece, part in pieces:
            number = places[piece.unit, piece.index]
            for name, along in phase.sums.items():
                part.known[name] = _show(shown[name][number], along, piece)
            target = {n: _cut(views[n][number], a, piece) for n, a in phase.sums.items()} if piece.counted else {}
            self._targets.append((part, target))

    def run(self, usual: Any, special: Mapping[int, Any], scale: Tensor, selects: bool) -> None:
        """Run the phase over this rank's pieces and make the sums known to them.

        usual, special: with which scalars and whether parts are updated, those of some parameters otherwise. selects:
        kernels ask whether.
        """
        self._flat.zero_()
        self._staging.begin()
        for part, target in self._targets:
            scalars, ok = special.get(part.number, usual)
            if not (selects or ok):
                continue
            results = self._staging.run(self._kernel, self._comm.updates, part, scalars, scale, ok)
            for name, place in target.items():
                place.add_(results[name].view(place.shape))
        self._comm.all_reduce(self._flat, kind="optimizer")
        for name in self._states:
            self._absorb(name, usual, special)

    def _absorb(self, name: str, usual: Any, special: Mapping[int, Any]) -> None:
        """Bring a state that is whole on every rank up to the sums, each parameter's by itself where some differ."""
        values, total = self._states[name]
        pieces = [(values, total, usual)]
        if any(number in special for number in self._numbers):
            sizes = self._sizes[name]
            turns = (special.get(number, usual) for number in self._numbers)
            pieces = list(zip(values.split(sizes), total.split(sizes), turns, strict=True))
        for old, sums, (scalars, ok) in pieces:
            old.copy_(torch.where(ok, self._rule.absorb(name, old, sums, scalars), old))

    def release(self) -> None:
        """The sums have been used; their memory is kept."""


def _cut(values: Tensor, along: str, piece: Piece) -> Tensor:
    return {"rows": values[piece.rows], "columns": values[piece.columns], "all": values[0]}[along]


def _show(values: Tensor, along: str, piece: Piece) -> Tensor:
    part = _cut(values, along, piece)
    return part[:, None] if along == "rows" else part


@dataclass(frozen=True)
class _Matrix:
    """A parameter that is worked on as a whole by its owner.

    held: the elements of it that each rank updates. sent: those that each rank sends to the owner.
    """

    unit: Unit
    index: int
    owner: int
    held: list[Span]
    sent: list[Span]


class Matrices:
    """A phase whose result is put together to whole matrices, each on its owner, and goes back changed.

    Owners are chosen so that the ranks have about the same work; two all-to-alls per wave of matrices. Where every rank
    needs all of each matrix, the second one divides the wave evenly, and all gather it: an owner that sent a copy to
    each rank would have to hold as many.
    """

    def __init__(self, storage: Storage, rule: Any, group: int, phase: Any, pieces: Sequence, comm: Communicator,
                 kernel: Callable, unused: Unused | None, staging: Staging):  # fmt: skip
        self._comm, self._kernel, self._staging = comm, kernel, staging
        self._change = getattr(rule, phase.whole)
        self._dtype, self._device = getattr(torch, phase.wire), storage.device
        by_parameter: dict[tuple[Unit, int], list] = {}
        for piece, part in pieces:
            by_parameter.setdefault((piece.unit, piece.index), []).append((piece, part))
        alike = comm.world > 1 and not storage.stage.optimizer.divided
        self._waves = [
            _Wave(_owned(storage, wave), by_parameter, comm.rank, comm.world, alike)
            for wave in _waves(storage.states.members(group), WAVE * comm.world)
        ]

    def run(self, usual: Any, special: Mapping[int, Any], scale: Tensor, selects: bool) -> None:
        """Run the phase over this rank's pieces and give them the changed values as "whole"; see `Sums.run`."""
        self._staging.begin()
        for wave in self._waves:
            sent = self._empty(wave.sent)
            for part, place in wave.outgoing:
                scalars, ok = special.get(part.number, usual)
                if not (selects or ok):
                    if place is not None:
                        sent[place].zero_()
                    continue
                results = self._staging.run(self._kernel, self._comm.updates, part, scalars, scale, ok)
                if place is not None:
                    sent[place].copy_(results["whole"].reshape(-1))
            arrived = self._exchange(sent, wave.sent, wave.arrived)
            answers = self._empty(wave.answers)
            for shape, sources, destinations in wave.work:
                matrix = torch.cat([arrived[place] for place in sources]).view(shape)
                changed = self._change(matrix).reshape(-1)
                for place, span in destinations:
                    answers[place].copy_(changed[span])
            back = self._exchange(answers, wave.answers, wave.back, wave.part)
            if wave.part is not None:
                back = self._gather(back)
            for part, place in wave.incoming:
                part.known["whole"] = back[place].view(part.weight.shape)

    def release(self) -> None:
        """Give back the memory of the changed values."""
        for wave in self._waves:
            for part, _ in wave.incoming:
                del part.known["whole"]

    def _empty(self, splits: list[int]) -> Tensor:
        return torch.empty(sum(splits), dtype=self._dtype, device=self._device)

    def _exchange(self, values: Tensor, given: list[int], taken: list[int], length: int | None = None) -> Tensor:
        """What the ranks have for this one; with room up to `length` elements."""
        result = self._empty(taken if length is None else [length])
        self._comm.all_to_all(result[: sum(taken)], values, taken, given)
        return result

    def _gather(self, part: Tensor) -> Tensor:
        whole = self._empty([len(part)] * self._comm.world)
        self._comm.all_gather(whole, part)
        return whole


class _Wave:
    """What goes where for some matrices. sent, arrived, answers, back: elements exchanged with each rank.

    alike: every rank needs all matrices; of what their owners have made each rank then gets `part` elements back, the
    last ones perhaps fewer, for all to gather. part: None where each rank gets what it needs at once.

    outgoing, incoming: this rank's pieces and their places in what it sends and gets back. work: shape, places of the
    parts and destinations of each matrix that this rank owns.
    """

    def __init__(self, matrices: list[_Matrix], pieces: dict, rank: int, world: int, alike: bool):
        ranks = range(world)
        homes = [rank] if alike else ranks
        owned = [[m for m in matrices if m.owner == owner] for owner in ranks]
        self.sent = [sum(len(m.sent[rank]) for m in owned[o]) for o in ranks]
        self.arrived = [sum(len(m.sent[source]) for m in owned[rank]) for source in ranks]
        self.answers = [sum(len(m.held[d]) for m in owned[rank]) for d in homes]
        self.back = [sum(len(m.held[rank]) for m in owned[o]) for o in ranks]
        in_order = [m for members in owned for m in members]
        sent = _places([len(m.sent[rank]) for m in in_order])
        back = _places([len(m.held[rank]) for m in in_order])
        self.outgoing, self.incoming = [], []
        for matrix, out, home in zip(in_order, sent, back, strict=True):
            for piece, part in pieces.get((matrix.unit, matrix.index), ()):
                self.outgoing.append((part, _within(piece, matrix.sent[rank], out)))
                self.incoming.append((part, _within(piece, matrix.held[rank], home)))
        mine = owned[rank]
        sources = [_places([len(m.sent[s]) for m in mine], start) for s, start in enumerate(_starts(self.arrived))]
        starts = zip(homes, _starts(self.answers), strict=True)
        targets = {d: _places([len(m.held[d]) for m in mine], start) for d, start in starts}
        self.work = [
            (
                matrix_shape(m.unit.shapes[m.index]),
                [sources[s][i] for s in sorted(ranks, key=lambda s: m.sent[s].start) if len(m.sent[s])],
                [(targets[d][i], slice(m.held[d].start, m.held[d].stop)) for d in homes if len(m.held[d])],
            )
            for i, m in enumerate(mine)
        ]
        self.part: int | None = None
        if alike:
            self.part = -(-sum(self.back) // world)
            self.answers, self.back = _evenly(self.back, self.part, rank)


def _starts(lengths: list[int]) -> list[int]:
    return [0, *accumulate(lengths)][: len(lengths)]


def _places(lengths: list[int], start: int = 0) -> list[slice]:
    return [slice(start + a, start + a + n) for a, n in zip(_starts(lengths), lengths, strict=True)]


def _evenly(lengths: list[int], part: int, rank: int) -> tuple[list[int], list[int]]:
    """Elements that a rank gives each rank, and takes from each, to divide a buffer, of which every rank has a stretch
    of one of `lengths`, into stretches of `part`."""
    spans = [Span(start, start + length) for start, length in zip(_starts(lengths), lengths, strict=True)]
    parts = [Span(start, start + part) for start in range(0, part * len(lengths), part)]
    given = [len(spans[rank].clip(own.start, own.stop)) for own in parts]
    return given, [len(span.clip(parts[rank].start, parts[rank].stop)) for span in spans]


def _within(piece: Piece, span: Span, place: slice) -> slice | None:
    """Where a piece lies in a buffer that holds elements `span` of its parameter at `place`; None if it does not."""
    if not span.start <= piece.start < span.stop:
        return None
    start = place.start + piece.start - span.start
    return slice(start, start + len(piece.span))


def _waves(members: list[tuple[Unit, int]], limit: int) -> list[list[tuple[Unit, int]]]:
    waves: list[list[tuple[Unit, int]]] = []
    size = limit
    for unit, index in members:
        numel = unit.layout.numels[index]
        if size + numel > limit:
            waves.append([])
            size = 0
        waves[-1].append((unit, index))
        size += numel
    return waves


def _owned(storage: Storage, members: list[tuple[Unit, int]]) -> list[_Matrix]:
    """Give each matrix an owner, the most work first, always to the rank that has the least. Of ranks that hold the
    same elements those send that are the owner's neighbours."""
    mesh, home = storage.mesh, storage.stage.optimizer
    number = [home.replica(rank)[0] for rank in mesh.ranks]

    def work(member: tuple[Unit, int]) -> int:
        rows, columns = matrix_shape(member[0].shapes[member[1]])
        return rows * columns * min(rows, columns)

    loads, matrices = [0] * mesh.world, []
    for unit, index in sorted(members, key=work, reverse=True):
        owner = loads.index(min(loads))
        loads[owner] += work((unit, index))
        held = [unit.layout.overlap(index, unit.layout.held(home, rank))[0] for rank in mesh.ranks]
        sent = [span if number[rank] == number[owner] else Span(0, 0) for rank, span in enumerate(held)]
        matrices.append(_Matrix(unit, index, owner, held, sent))
    return matrices
