"""The engine divides its model anew, where modules or parameters were replaced, frozen or made trainable.

Weights and optimizer states go on: what a rank holds of them waits in the host's memory while the device's is divided
anew, and is then put together tensor by tensor. What is new starts as rank 0 has it, its optimizer states from the
beginning. The states of what is frozen are kept for the time when it is trained again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from zerokit.comm import Communicator
from zerokit.state.piece import DTYPES, NAMES, Piece
from zerokit.zero.access.parts import EngineParts
from zerokit.zero.access.persist import WEIGHT, EngineState

MASTER = "master of "
"""Before the name of a weight: the fp32 values that it had when it was frozen."""


@dataclass(frozen=True)
class Part:
    """Elements from `start` on of a tensor of `size` elements, in the host's memory."""

    size: int
    start: int
    values: Tensor


Parts = dict[str, list[Part]]
"""This rank's parts by the names of tensors, as in a saved state; every element is on one rank."""


@dataclass
class Parked:
    """What waits for parameters to be trained again: optimizer states, and in how many steps each was used."""

    states: Parts = field(default_factory=dict)
    own_steps: dict[str, Tensor] = field(default_factory=dict)


def rebuild(engine: EngineParts) -> None:
    """Divide the model of an engine as it is now. A collective."""
    names = {p: name for name, p in engine.module.named_parameters()}
    renamed = {old: names[p] for unit in engine.units for old, p in unit.named_parameters() if p in names}
    known = {p for unit in engine.units for p in unit.parameters}
    known |= {b for module in engine._structure.modules for b in module._buffers.values() if b is not None}
    parked, update, token_unit = engine.parked, engine._update, engine.micro_batch.token_unit
    engine.state.settle()
    kept = parked.states | keep(engine.state, renamed)
    if engine.unused is not None:
        own = engine.unused.own_steps(engine.steps_taken)
        parked.own_steps |= {renamed[name]: steps for name, steps in own.items() if name in renamed}
    engine.take_off(lambda unit: [without_values(p) for p in unit.parameters])
    engine.build(engine.seed, known)
    used = bring_back(engine.state, kept, engine.comm)
    frozen = {f"{WEIGHT}{name}" for unit in engine.units if not unit.trainable for name in unit.names}
    parked.states = {name: parts for name, parts in kept.items() if name not in used}
    parked.states |= {MASTER + name: parts for name, parts in kept.items() if name in frozen and _is_fp32(parts)}
    if len(update.lr_factors) == len(engine._update.lr_factors):
        engine._update.lr_factors.copy_(update.lr_factors)
        engine._update.decays.copy_(update.decays)
    engine.micro_batch.token_unit.copy_(token_unit)
    if engine.unused is not None:
        engine.unused.start_with(parked.own_steps, engine.steps_taken)
    engine.state.written()


def keep(state: EngineState, names: Mapping[str, str]) -> Parts:
    """Copy what this rank holds. names: new name of every parameter by its old one; others are left out."""
    kept: Parts = {}
    for piece in state.shares():
        kind, _, parameter = piece.name.partition("/")
        if parameter in names or (kind.startswith("optimizer.") and not parameter):
            name = f"{kind}/{names[parameter]}" if parameter else piece.name
            values = torch.cat([values.cpu() for _, values in piece.chunks()] or [torch.empty(0, dtype=piece.dtype)])
            size = torch.Size(piece.shape).numel()
            kept.setdefault(name, []).append(Part(size, piece.start, values.clone()))
    return kept


@torch.no_grad()
def bring_back(state: EngineState, kept: Parts, comm: Communicator) -> set[str]:
    """Write what was kept wherever it is wanted now; the names of what was. A collective."""
    wanted: dict[str, list[Piece]] = {}
    for piece in state.held():
        wanted.setdefault(piece.name, []).append(piece)
    facts = {name: (parts[0].size, NAMES[parts[0].values.dtype]) for name, parts in kept.items()}
    known, asked = zip(*state.exchange.gather((facts, list(wanted))), strict=True)
    everywhere = {name: fact for rank in known for name, fact in rank.items()}
    names = sorted({name for rank in asked for name in rank} & set(everywhere))
    for name in names:
        size, dtype = everywhere[name]
        whole = torch.zeros(size, dtype=DTYPES[dtype], device=comm.device)
        for part in kept.get(name, ()):
            whole[part.start : part.start + len(part.values)] = part.values.to(comm.device)
        comm.all_reduce(whole, kind="values")
        if MASTER + name in everywhere:
            whole = _as_before(whole, kept.get(MASTER + name, ()), comm)
        for piece in wanted.get(name, ()):
            if torch.Size(piece.shape).numel() == size:
                piece.write(0, whole[piece.start : piece.stop])
    return set(names)


def _is_fp32(parts: list[Part]) -> bool:
    return parts[0].values.dtype == torch.float32


def _as_before(weight: Tensor, masters: Iterable[Part], comm: Communicator) -> Tensor:
    """The master weights of a parameter that was frozen, where its weight is still what they are rounded to."""
    whole = torch.zeros(weight.shape, dtype=torch.float32, device=comm.device)
    for part in masters:
        whole[part.start : part.start + len(part.values)] = part.values.to(comm.device)
    comm.all_reduce(whole, kind="values")
    return torch.where(
        (whole - weight.float()).abs() <= weight.float().abs() * torch.finfo(weight.dtype).eps, whole, weight
    )


def without_values(parameter: nn.Parameter) -> Tensor:
    """A tensor of the parameter's shape that takes no memory."""
    return torch.zeros((), dtype=torch.float32, device=parameter.device).expand(parameter.shape)
