"""Moments that a saved state has in another format than the engine that reads it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zerokit.state.piece import Piece
from zerokit.zero.storage import Storage
from zerokit.zero.update.states import StateSlice


def tensor_name(state: str, parameter: str) -> str:
    """What a state of a parameter is called where it is saved."""
    return f"optimizer.{state}/{parameter}"


@dataclass
class Conversion:
    """A moment of a parameter, as far as this rank holds it.

    pieces: to be read into, in the format of the saved state `found`. here: where it goes, in the format `wanted`.
    """

    pieces: list[Piece]
    found: Any
    wanted: Any
    here: list[StateSlice]

    @property
    def replaced(self) -> set[str]:
        """Names of the tensors that the engine would have read."""
        return {tensor_name(part.name, part.parameter) for part in self.here}

    def finish(self) -> None:
        """Write what has been read, rounded to the nearest."""
        values = self.found.load([piece.views[0] for piece in self.pieces])
        for part, plane in zip(self.here, self.wanted.nearest(values), strict=True):
            part.values.copy_(plane)


def conversions(storage: Storage, saved: Collection[str]) -> Iterator[Conversion]:
    """For each moment that is not among the `saved` tensors as it is here, but is in another format."""
    held = {(part.parameter, part.name): part for part in storage.states.slices()}
    for unit in storage.trainable:
        mine = unit.layout.held(storage.stage.optimizer, storage.mesh)
        for index, name in enumerate(unit.names):
            inside, _ = unit.layout.overlap(index, mine)
            for reading in storage.states.rules[unit.layout.groups[index]].readings if len(inside) else ():
                found = next((f for f in (reading.format, *reading.others) if _is_among(saved, f, name)), None)
                if found is not None and found is not reading.format:
                    pieces = [_room(plane, name, unit.shapes[index], inside, storage) for plane in found.planes]
                    here = [held[name, plane.name] for plane in reading.format.planes]
                    yield Conversion(pieces, found, reading.format, here)


def readable(storage: Storage) -> set[str]:
    """Names of all states in which moments can be read."""
    readings = [reading for rule in storage.states.rules for reading in rule.readings]
    return {plane.name for reading in readings for form in reading.others for plane in form.planes}


def _is_among(saved: Collection[str], form: Any, parameter: str) -> bool:
    return all(tensor_name(plane.name, parameter) in saved for plane in form.planes)


def _room(plane: Any, parameter: str, shape: torch.Size, inside: Any, storage: Storage) -> Piece:
    """Memory for this rank's part of a plane."""
    size = -(-shape.numel() // plane.per)
    values: Tensor = torch.empty(-(-len(inside) // plane.per), dtype=getattr(torch, plane.dtype), device=storage.device)
    whole = tuple(shape) if plane.per == 1 else (size,)
    return Piece(tensor_name(plane.name, parameter), whole, inside.start // plane.per, values.dtype, (values,))
