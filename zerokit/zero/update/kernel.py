"""The optimizer's formula over flat shards: one pass that clips, updates, and writes master and compute weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from zerokit.comm import Communicator
from zerokit.zero.layout import ALIGNMENT, Span, round_up
from zerokit.zero.storage import Storage, update_spans
from zerokit.zero.unit import Unit
from zerokit.zero.update import staging
from zerokit.zero.update.compress import MomentumExchange
from zerokit.zero.update.part import Part, make_part
from zerokit.zero.update.phases import Matrices, Piece, Sums, pieces_of
from zerokit.zero.update.states import State, matrix_shape, of_elements
from zerokit.zero.update.unused import Unused

EXACT = {"emulate_precision_casts": True}
"""Options of the compiler: products and sums are rounded one by one. Left free to fuse them, it decides from a buffer's
size and from timings, and replicas and stages would drift apart in the last bit."""

CHUNK = 32_768
"""Elements updated at a time on the CPU: the handful of fp32 operands stays in the L2 cache between operations."""


class Now(NamedTuple):
    """What a step's scalars depend on: 0-dim float64 tensors; `step` counts from 1.

    momentum: None for rules that have none. kept: the rule's `kept` of its hyperparameter group. exact: the gradients
    were summed over the ranks; else compressed momenta were exchanged.
    """

    lr: Tensor
    step: Tensor
    weight_decay: Tensor
    momentum: Tensor | None
    kept: Mapping[str, Tensor]
    exact: bool = True


class Rule(Protocol):
    """How an optimizer changes elements: see `zerokit.optimizer._base.Optimizer`. Without `phases` the new value of an
    element depends on that element alone."""

    lr: float
    momentum: float | None
    states: Sequence[State]
    phases: Sequence[Any]
    kept: Mapping[str, float]
    tables: Mapping[str, Sequence[float]]
    compiles: bool
    exact_steps: int | None
    evaluate: Callable | None
    evaluates: Sequence[str]
    readings: Sequence[Any]

    def scalars(self, now: Now) -> dict[str, Tensor]:
        """What is the same for all elements of a group."""

    def keep(self, now: Now) -> dict[str, Tensor]:
        """The next values of `kept`."""

    def update(self, p: Tensor, g: Tensor, state: tuple[Tensor, ...], s: dict[str, Tensor]) -> tuple[Tensor, tuple]:
        """New fp32 values and states of elements with values `p` and gradients `g`; changes nothing in place."""


@dataclass(frozen=True)
class Group:
    """Hyperparameters that a set of parameters shares. rule: None means the engine's optimizer."""

    weight_decay: float = 0.0
    lr_factor: float = 1.0
    rule: Rule | None = None


def _limit(storage: Storage, unit: Unit) -> int | None:
    """Elements of the unit that are updated at a time; None: all."""
    if storage.device.type == "cpu":
        return CHUNK
    return staging.ELEMENTS if unit.away else None


def _number(value: int, storage: Storage) -> Tensor:
    return torch.tensor(float(value), device=storage.device)


@dataclass
class _Mode:
    """What kernels share with the update that runs them, without keeping it alive."""

    selects: bool


class _Turn(NamedTuple):
    """With which numbers a part is updated, and whether it is (0-dim bool)."""

    scalars: dict[str, Tensor]
    ok: Tensor


class _Scalars:
    """What a step's numbers are for each hyperparameter group."""

    def __init__(self, groups: Sequence[Group], lr_factors: Tensor, decays: Tensor, storage: Storage):
        self._groups, self._kept = groups, storage.states.kept
        self._lr_factors, self._decays = lr_factors, decays
        self._tables = [
            {name: torch.tensor(values, device=storage.device) for name, values in group.rule.tables.items()}
            for group in groups
        ]

    def all(self, lr: Tensor, momentum: Tensor, step: Tensor, ok: Tensor, exact: bool) -> list[dict]:
        """The scalars of every group; `kept` numbers take their next values."""
        made = []
        for index, group in enumerate(self._groups):
            now = self._now(index, lr, momentum, step, exact)
            made.append(self._of(index, now))
            for name, value in group.rule.keep(now).items():
                self._kept[name][index].copy_(torch.where(ok, value, now.kept[name]))
        return made

    def one(self, lr: Tensor, momentum: Tensor, exact: bool, index: int, step: Tensor) -> dict[str, Tensor]:
        """Those of group `index` at another step; to be asked before `all`."""
        return self._of(index, self._now(index, lr, momentum, step, exact))

    def _now(self, index: int, lr: Tensor, momentum: Tensor, step: Tensor, exact: bool) -> Now:
        group = self._groups[index]
        rule = group.rule
        own = None if rule.momentum is None else torch.where(momentum.isnan(), rule.momentum, momentum)
        kept = {name: self._kept[name][index].clone() for name in rule.kept}
        return Now(lr * self._lr_factors[index], step, self._decays[index], own, kept, exact)

    def _of(self, index: int, now: Now) -> dict[str, Tensor]:
        scalars = {name: value.float() for name, value in self._groups[index].rule.scalars(now).items()}
        return {**scalars, **self._tables[index]}


class Update:
    """Applies the rule of each hyperparameter group to everything this rank owns.

    [Note: skipped steps] Whether a step is taken is known on the device only. On a GPU the one compiled kernel selects
    between old and new values (`selects`); on a CPU, where reading a number costs nothing, the formula is not called.
    """

    def __init__(self, storage: Storage, groups: Sequence[Group], master: Any, comm: Communicator, compiled: bool,
                 unused: Unused | None = None):  # fmt: skip
        self.groups, self.master, self.compiled = list(groups), master, compiled
        self._mode = _Mode(storage.device.type != "cpu")
        self.lr_factors = torch.tensor([g.lr_factor for g in groups], dtype=torch.float64, device=storage.device)
        self.decays = torch.tensor([g.weight_decay for g in groups], dtype=torch.float64, device=storage.device)
        rules = dict.fromkeys(group.rule for group in self.groups)
        self.exchange = MomentumExchange(storage, comm, [group.rule for group in self.groups])
        self._kernels = {True: self._per_group(self._writer)}
        if storage.trainable and all(rule.exact_steps is not None for rule in rules):
            self._kernels[False] = self._per_group(self._compressed_writer)
        self._storage, self._unused = storage, unused
        self._divided: set[Unit] = set()  # whose parts are of one parameter each
        self._parts: dict[Unit, list[Part]] = {unit: [] for unit in storage.trainable}
        pieces: list[list[tuple[Piece, Part]]] = [[] for _ in self.groups]
        for unit in storage.trainable:
            for span in update_spans(storage, unit):
                if self.groups[span.group].rule.phases:
                    pieces[span.group] += self._pieces(storage, unit, span)
                else:
                    self._parts[unit] += self._cut(storage, unit, span)
        self.staging = staging.Staging(comm, (part for part, _ in self.parts()))
        self.start_states(comm)
        self._phases = [self._make_phases(storage, comm, group, pieces[group]) for group in range(len(self.groups))]
        self._scalars_of = scalars = _Scalars(self.groups, self.lr_factors, self.decays, storage)
        traceable = compiled and all(rule.compiles for rule in rules)
        self._scalars = torch.compile(scalars.all, dynamic=False, options=EXACT) if traceable else scalars.all

    @property
    def selects(self) -> bool:
        """Whether kernels choose between old and new values, as the host does not know whether the step is taken."""
        return self._mode.selects

    @selects.setter
    def selects(self, value: bool) -> None:
        self._mode.selects = value

    def start_states(self, comm: Communicator) -> None:
        """Copy the weights into states that start as them."""
        self.staging.begin()
        for part, rule in self.parts():
            places = [i for i, state in enumerate(of_elements(rule.states)) if state.initial == "parameter"]
            if places:
                with self.staging.here(part, comm.compute) as here:
                    for place in places:
                        here.state[place].copy_(self.master.load(here.weight, here.extra))
        comm.updated()

    def _per_group(self, make: Callable[[Rule], Callable]) -> list[Callable]:
        kernels = {rule: self._compile(make(rule), rule) for rule in dict.fromkeys(g.rule for g in self.groups)}
        return [kernels[group.rule] for group in self.groups]

    def _compile(self, function: Callable, rule: Rule) -> Callable:
        if not (self.compiled and rule.compiles):
            return function
        # Dynamo counts compilations per code object, and closures of one function would share theirs.
        function.__code__ = function.__code__.replace()
        return torch.compile(function, dynamic=True, options=EXACT)

    def parts(self) -> Iterator[tuple[Part, Rule]]:
        """All that this rank updates, and by which rule."""
        for part in (part for parts in self._parts.values() for part in parts):
            yield part, self.groups[part.group].rule

    @staticmethod
    def _cut(storage: Storage, unit: Unit, span: Span) -> Iterator[Part]:
        step = _limit(storage, unit) or len(span)
        for begin in range(span.start, span.stop, step):
            yield make_part(storage, unit, span.clip(begin, begin + step))

    def _pieces(self, storage: Storage, unit: Unit, span: Span) -> list[tuple[Piece, Part]]:
        """Pieces of single parameters, for rules with phases."""
        sums = [along for phase in self.groups[span.group].rule.phases for along in phase.sums.values()]
        made = []
        for piece in pieces_of(storage, unit, span, {"rows", "columns"} & set(sums) != set(), _limit(storage, unit)):
            part = make_part(storage, unit, piece.span, piece.shape)
            rows, columns = matrix_shape(unit.shapes[piece.index])
            part.known |= {"rows": _number(rows, storage), "columns": _number(columns, storage)}
            part.number = None if self._unused is None else self._unused.numbers[unit, piece.index]
            made.append((piece, part))
            self._parts[unit].append(part)
        return made

    def _divide(self, unit: Unit) -> None:
        """Cut the unit's parts at the borders of parameters, where some may be left alone."""
        self._divided.add(unit)
        whole, self._parts[unit] = self._parts[unit], []
        self._parts[unit] += [part for part in whole if part.number is not None]
        for span in update_spans(self._storage, unit):
            if self.groups[span.group].rule.phases:
                continue
            for index in range(len(unit.parameters)):
                inside, place = unit.layout.overlap(index, span)
                if len(inside):  # with its padding: blocks of states end there
                    own = span.clip(place.start, place.start + round_up(len(inside), ALIGNMENT))
                    for part in self._cut(self._storage, unit, own):
                        part.number = self._unused.numbers[unit, index]
                        self._parts[unit].append(part)

    def _exceptions(self, units: Sequence[Unit], step: Tensor, ok: Tensor, make: Callable) -> dict[int, _Turn]:
        """How parameters are updated that this rank has once not used: if another did, and by their own step count."""
        unused = self._unused
        if unused is None or not unused.irregular:
            return {}
        exceptions = {}
        for unit in units:
            for index in range(len(unit.parameters)):
                number = unused.numbers[unit, index]
                if number in unused.irregular:
                    if unit not in self._divided:
                        self._divide(unit)
                    scalars = make(unit.layout.groups[index], step - unused.lag[number])
                    exceptions[number] = _Turn(scalars, ok & unused.used[number])
        return exceptions

    def _make_phases(self, storage: Storage, comm: Communicator, group: int, pieces: list) -> list[Sums | Matrices]:
        rule = self.groups[group].rule
        made = []
        for phase in rule.phases if storage.states.members(group) else ():
            kernel = self._compile(self._phase(rule, getattr(rule, phase.method)), rule)
            kind = Matrices if phase.whole else Sums
            made.append(kind(storage, rule, group, phase, pieces, comm, kernel, self._unused, self.staging))
        return made

    def __call__(
        self,
        units: Sequence[Unit],
        comm: Communicator,
        lr: Tensor,
        momentum: Tensor,
        step: Tensor,
        scale: Tensor,
        ok: Tensor,
        exact: bool = True,
    ) -> None:
        """Update `units` in place, one after the other on the stream for updates, marking each with an event.

        lr, momentum, step, scale: 0-dim float64, scale multiplies the gradients, NaN as momentum leaves each rule its
        own; ok: 0-dim bool, take the step. exact: gradients are sums over the ranks, else each rank has its own.
        """
        if not self.selects and not ok:
            return
        special = self._exceptions(units, step, ok, partial(self._scalars_of.one, lr, momentum, exact))
        scalars, scale = self._scalars(lr, momentum, step, ok, exact), scale.float()
        kernels = self._kernels[exact]
        usual = [_Turn(of_group, ok) for of_group in scalars]

        known = comm.compute.record()
        with comm.updates as stream:
            stream.wait(known)
            stream.wait(comm.copied)
            if not exact:
                self.exchange.run(scalars, scale, ok)
            for group, phases in enumerate(self._phases):
                for phase in phases:
                    phase.run(usual[group], special, scale, self.selects)
            self.staging.begin()
            for unit in units:
                for part in self._parts[unit]:
                    now = special.get(part.number, usual[part.group])
                    if self.selects or now.ok is ok or now.ok:
                        self.staging.run(kernels[part.group], stream, part, now.scalars, scale, now.ok)
                unit.updated, unit.spent = stream.record(), True
            for phase in (phase for phases in self._phases for phase in phases):
                phase.release()
        # Memory of the compute stream must not be used again before the update has read it.
        self._held = (scalars, scale, ok, special)

    def _phase(self, rule: Rule, method: Callable) -> Callable:
        master, mode = self.master, self._mode

        def run(weight: Tensor, extra: Tensor | None, gradient: Tensor, state: tuple[Tensor, ...],
                scalars: dict[str, Tensor], known: dict[str, Tensor], scale: Tensor, ok: Tensor) -> dict:  # fmt: skip
            values = master.load(weight, extra)
            new_state, results = method(values, gradient.float() * scale, state, {**scalars, **known})
            _store(state, new_state, ok, mode.selects)
            return results

        return run

    def _compressed_writer(self, rule: Rule) -> Callable:
        return self._writer(rule, lambda p, g, state, s: rule.update_compressed(p, state, s))

    def _writer(self, rule: Rule, formula: Callable | None = None) -> Callable:
        master, mode, formula = self.master, self._mode, formula or rule.update

        def write(weight: Tensor, extra: Tensor | None, gradient: Tensor, state: tuple[Tensor, ...],
                  scalars: dict[str, Tensor], known: dict[str, Tensor], scale: Tensor, ok: Tensor) -> None:  # fmt: skip
            old = master.load(weight, extra)
            new, new_state = formula(old, gradient.float() * scale, state, {**scalars, **known})
            if mode.selects:
                new = torch.where(ok, new, old)
            master.store(weight, extra, new)
            _store(state, new_state, ok, mode.selects)

        return write


def _store(state: tuple[Tensor, ...], new_state: tuple[Tensor, ...], ok: Tensor, selects: bool) -> None:
    for old, new in zip(state, new_state, strict=True):
        if new is not old:
            old.copy_(torch.where(ok, new, old) if selects else new)
