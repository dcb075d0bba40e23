"""Whole values of single parameters, read and written: master weights, gradients, optimizer states.

For debugging, surgery on models, and code written for other libraries. Every call is a collective: all ranks make it,
with the same arguments. A value is put together from the ranks' parts by adding zeros to them, which is exact.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zerokit.zero.access.parts import EngineParts
from zerokit.zero.buffer import Buffer
from zerokit.zero.materialize import Materializer
from zerokit.zero.placement import Home
from zerokit.zero.unit import Unit
from zerokit.zero.update.master import MASTERS, Across
from zerokit.zero.update.states import State, StateSlice, length_along


class ParameterValues:
    """Reads and writes the parameters of an engine by their names in the model."""

    def __init__(self, engine: EngineParts):
        self._engine, self._storage, self._comm = weakref.proxy(engine), engine.storage, engine.comm
        self._place = {name: (unit, index) for unit in engine.units for index, name in enumerate(unit.names)}
        self._writer = Materializer(engine.storage, Across(MASTERS[engine.numerics.master]), engine.comm)
        self._slices: dict[tuple[str, str], StateSlice] | None = None

    def _find(self, name: str) -> tuple[Unit, int]:
        if name not in self._place:
            raise KeyError(f"The model has no parameter '{name}'.")
        return self._place[name]

    def _checked(self, name: str, value: Tensor, shape: Sequence[int]) -> Tensor:
        if tuple(value.shape) != tuple(shape):
            raise ValueError(f"'{name}': expected a value of shape {tuple(shape)}, got {tuple(value.shape)}.")
        return value.detach().to(self._comm.device, torch.float32)

    def _assemble(self, buffer: Buffer, home: Home, unit: Unit, index: int) -> Tensor:
        """The whole parameter, fp32, from what every rank holds of its unit at `home`."""
        shape = unit.shapes[index]
        if not (home.divided or home.apart):
            return buffer.of(unit.layout, index)[1].to(torch.float32, copy=True).view(shape)
        full = torch.zeros(shape.numel(), dtype=torch.float32, device=buffer.values.device)
        if home.is_first(self._comm.mesh):
            part, place = unit.layout.overlap(index, unit.layout.held(home, self._comm.mesh))
            full[part.start : part.stop] = buffer.at(place)
        self._comm.all_reduce(full, kind="values")
        return full.view(shape)

    # -- weights -----------------------------------------------------------------------------------------------------

    def weight(self, name: str) -> Tensor:
        """The fp32 master value of a parameter, whole (frozen ones: the compute value)."""
        unit, index = self._find(name)
        self._engine.reader.begin()
        values, home = self._engine.reader.master(unit)
        return self._assemble(Buffer(values, unit.layout.held(home, self._comm.mesh)), home, unit, index)

    def set_weight(self, name: str, value: Tensor) -> None:
        """Give a parameter another value: master and compute weights. Optimizer states stay."""
        unit, index = self._find(name)
        self._write([(unit, index, self._checked(name, value, unit.shapes[index]))])

    @torch.no_grad()
    def _write(self, values: Sequence[tuple[Unit, int, Tensor]]) -> None:
        self._engine.reader.begin()
        for unit, index, value in values:
            self._writer.write(unit.parameters[index], value)
        for unit in {unit for unit, _, _ in values}:
            unit.updated = self._comm.compute.record()
        self._engine.gatherer.invalidate()

    @contextmanager
    def copies(self, names: Sequence[str], source: int | None = None) -> Iterator[None]:
        """Point parameters at whole copies, in the compute format, for the time of the block.

        source: the rank whose changes are kept: elements that differ take the new value, in the master weights too;
        the others keep their exact masters. None keeps no change.
        """
        places = [self._find(name) for name in dict.fromkeys(names)]
        reader = self._engine.reader
        reader.begin()
        values = dict(zip(places, self._compute(places), strict=True))
        everything, before = len(places) == len(self._place), reader.open
        with ExitStack() as lent:
            for unit in dict.fromkeys(unit for unit, _ in places):
                own = {index: value for (of, index), value in values.items() if of is unit}
                lent.enter_context(unit.model_views.lend(list(own), list(own.values())))
            reader.open = before or everything
            try:
                yield
            finally:
                reader.open = before
                changed = [parameter.data for parameter in _parameters(places)]
        if source is not None:
            self._keep(places, changed, source)

    def _compute(self, places: Sequence[tuple[Unit, int]]) -> Iterator[Tensor]:
        """Copies of whole compute weights."""
        full, last = None, None
        for unit, index in places:
            if unit is not last:
                full, last = self._engine.reader.compute(unit), unit
            yield unit.views(full)[index].detach().clone()

    @torch.no_grad()
    def _keep(self, places: Sequence[tuple[Unit, int]], changed: Sequence[Tensor], source: int) -> None:
        values = []
        for (unit, index), new, old in zip(places, changed, self._compute(places), strict=True):
            new = new.contiguous()
            self._comm.broadcast(new, source)
            differs = new != old
            if differs.any():
                kept = self.weight(unit.names[index])
                values.append((unit, index, torch.where(differs, new.float(), kept)))
        if values:
            self._write(values)

    def compute_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and copies of the whole weights in the compute format; one unit is whole at a time."""
        self._engine.reader.begin()
        yield from zip(self._place, self._compute(list(self._place.values())), strict=True)

    # -- gradients ---------------------------------------------------------------------------------------------------

    def gradient(self, name: str) -> Tensor | None:
        """The whole gradient of the micro-batches since the last step, without loss scale, fp32; None before the first
        and for frozen parameters."""
        unit, index = self._find(name)
        if not unit.trainable or not self._engine.micro_batches:
            return None
        self._engine.reducer.finish()
        full = self._assemble(unit.gradient, self._engine.gradient_home, unit, index)
        return full * self._mean()

    @torch.no_grad()
    def set_gradient(self, name: str, value: Tensor) -> None:
        """Give a parameter another gradient for the step under way; the norm follows.

        Raises:
            RuntimeError: no micro-batch of the step has been here.
        """
        unit, index = self._find(name)
        if not unit.trainable or not self._engine.micro_batches:
            raise RuntimeError(f"'{name}' has no gradient: it has one between engine.backward and engine.step.")
        value = self._checked(name, value, unit.shapes[index]) / self._mean()
        self._engine.reducer.finish()
        home, mesh = self._engine.gradient_home, self._comm.mesh
        part, place = unit.layout.overlap(index, unit.layout.held(home, mesh))
        target = unit.gradient.at(place)
        target.copy_(value.reshape(-1)[part.start : part.stop]) if home.has_value(mesh) else target.zero_()
        if self._engine.gradients_reduced:
            self._engine.gradient_norm.add(unit)

    def _mean(self) -> Tensor | float:
        """What makes the step's mean of the sums of gradients so far."""
        tokens = self._engine.micro_batch.tokens.clone()
        self._comm.all_reduce(tokens, kind="values")
        return self._engine.micro_batch.mean_factor(tokens)

    # -- optimizer states --------------------------------------------------------------------------------------------

    def states(self, name: str) -> list[str]:
        """Names of the optimizer's states of a parameter."""
        declared, moments = self._declared(*self._find(name))
        planes = {plane.name: moment for moment, form in moments.items() for plane in form.planes}
        return list(dict.fromkeys(planes.get(key, key) for key in declared))

    def _declared(self, unit: Unit, index: int) -> tuple[dict[str, State], dict[str, Any]]:
        """States by name as they lie in memory, and the formats of moments by their names."""
        if not unit.trainable:
            return {}, {}
        rule = self._storage.states.rules[unit.layout.groups[index]]
        return {s.name: s for s in rule.states}, {moment.name: moment.format for moment in rule.readings}

    def _planes(self, name: str, key: str) -> tuple[Any, list[State]]:
        """The format of a state, None if it has none of its own, and what it consists of."""
        declared, moments = self._declared(*self._find(name))
        if key in moments:
            return moments[key], [declared[plane.name] for plane in moments[key].planes]
        if key not in self.states(name):
            raise KeyError(f"'{name}' has no optimizer state '{key}'; it has {', '.join(self.states(name)) or 'none'}.")
        return None, [declared[key]]

    def _held(self, name: str, state: State) -> tuple[int, torch.Size, StateSlice | None]:
        """How many values a state has, the parameter's shape, and what this rank holds of it."""
        unit, index = self._find(name)
        shape = unit.shapes[index]
        if self._slices is None:
            self._slices = {(part.parameter, part.name): part for part in self._storage.states.slices()}
        size = length_along(state.along, shape) if state.along else -(-shape.numel() // state.per)
        return size, shape, self._slices.get((name, state.name))

    def state(self, name: str, key: str) -> Tensor:
        """A whole optimizer state of a parameter, whatever its format: in its shape if there is one value per element,
        else flat; fp32. Of one that every rank has its own of, the sum."""
        form, planes = self._planes(name, key)
        whole = [self._whole(name, plane) for plane in planes]
        return whole[0] if form is None else form.load(whole)

    def _whole(self, name: str, state: State) -> Tensor:
        size, shape, part = self._held(name, state)
        self._comm.updated()
        home = self._storage.states.home(state.name)
        full = torch.zeros(size, dtype=torch.float32, device=self._comm.device)
        alone = not (home.divided or home.apart)
        if part is not None and (alone or home.is_first(self._comm.mesh)):
            full[part.start : part.start + len(part.values)] = part.values
        if not alone:
            self._comm.all_reduce(full, kind="values")
        return full.view(shape) if size == shape.numel() else full

    @torch.no_grad()
    def set_state(self, name: str, key: str, value: Tensor) -> None:
        """Give an optimizer state of a parameter other values, in the shape that `state` returns; a moment in a small
        format rounds them to the nearest."""
        form, planes = self._planes(name, key)
        size, shape, _ = self._held(name, planes[0])
        value = self._checked(name, value, shape if size == shape.numel() else (size,))
        values = [value] if form is None else form.nearest(value)
        self._comm.updated()
        self._comm.compute.wait(self._comm.copied)
        for plane, new in zip(planes, values, strict=True):
            part = self._held(name, plane)[2]
            if part is not None:
                part.values.copy_(new.reshape(-1)[part.start : part.start + len(part.values)])
                if not self._storage.states.home(plane.name).has_value(self._comm.mesh):
                    part.values.zero_()
        self._engine.states_changed()


def _parameters(places: Sequence[tuple[Unit, int]]) -> Iterator[nn.Parameter]:
    return (unit.parameters[index] for unit, index in places)
