"""All flat memory of one rank: what each placement of a stage costs, allocated once.

Every kind of state is one arena, a single tensor in which the units' parts lie one after the other. Gradients are a
tensor for each unit, since their memory comes and goes (`zerokit.zero.unit`, [Note: gradients come and go]).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zerokit.comm.mesh import Mesh
from zerokit.comm.peer import PeerMemory
from zerokit.comm.pinned import Host, HostMemory
from zerokit.zero.buffer import Buffer
from zerokit.zero.layout import Span
from zerokit.zero.model.views import Views
from zerokit.zero.placement import Home, Memory, Stage, own_terms, path
from zerokit.zero.unit import Slot, Unit
from zerokit.zero.update.states import States

META = torch.device("meta")


@dataclass(frozen=True)
class Dtypes:
    """weight: of computation; extra: what completes it to fp32 master weights (None when it is fp32);
    gradient: of stored gradients; wire: of gradients while they are reduced."""

    weight: torch.dtype
    extra: torch.dtype | None
    gradient: torch.dtype
    wire: torch.dtype


def extent(unit: Unit, home: Home, mesh: Mesh) -> int:
    """Elements of a unit that one rank stores at a home."""
    return len(unit.layout.held(home, mesh))


def ring_of(unit: Unit) -> str:
    """Which units take turns in the same buffers for gradients: blocks with blocks, the others with each other."""
    return "block" if unit.kind == "block" else "rest"


def largest_by_ring(units: Sequence[Unit], elements: Callable[[Unit], int]) -> dict[str, int]:
    """The most `elements` that a unit of each ring has."""
    sizes: dict[str, int] = {}
    for unit in units:
        sizes[ring_of(unit)] = max(sizes.get(ring_of(unit), 0), elements(unit))
    return sizes


def nbytes(tensors: Sequence[Tensor | None]) -> int:
    """Bytes of the tensors that are there."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def state_bytes(units: list[Unit], stage: Stage, mesh: Mesh, dtypes: Dtypes, states: States) -> dict[str, int]:
    """Bytes one rank stores at `stage`: parameters (compute and master weights), gradients, optimizer states. The
    formula that `Storage` fulfils, nothing allocated."""
    trainable = [unit for unit in units if unit.trainable]

    def elements(home: Home, members: list[Unit]) -> int:
        return sum(extent(unit, home, mesh) for unit in members)

    extra = 0 if dtypes.extra is None else dtypes.extra.itemsize
    updated = elements(stage.optimizer, trainable)
    return {
        "parameters": elements(stage.parameter, units) * dtypes.weight.itemsize + updated * extra,
        "gradients": elements(stage.gradient, trainable) * dtypes.gradient.itemsize,
        "optimizer": states.nbytes_at(stage),
    }


class Storage:
    """The arenas of one rank, cut into the units' parts, and the slots where whole weights and gradients appear.

    slots: how many blocks may be gathered at once when parameters are sharded; the same for gradients on their way.
    rules: the optimizer of each hyperparameter group, which declares its states.
    shared: makes the arena of weights (elements, dtype → peer memory of zeros, or None where there is none).
    tables: embeddings, which need no slot where ranks read each other's shards.
    transient: whether gradients give their memory back after the update.
    loud: whether weights that are not there read NaN.
    host: where a home in the host's memory is. keep: bytes of such a home that stay on the device all the same, of the
    units that are used first, so that the forward pass need not wait for theirs.

    Raises:
        ConfigError: the host has too little memory.
    """

    def __init__(
        self,
        units: list[Unit],
        stage: Stage,
        dtypes: Dtypes,
        rules: Sequence,
        mesh: Mesh,
        device: torch.device,
        slots: int = 2,
        shared: Callable[[int, torch.dtype], PeerMemory | None] | None = None,
        tables: Sequence[Unit] = (),
        transient: bool = False,
        loud: bool = False,
        host: Host | None = None,
        keep: int = 0,
    ):
        self.units, self.stage, self.dtypes, self.mesh, self.device = units, stage, dtypes, mesh, device
        self.trainable = [unit for unit in units if unit.trainable]
        count = sum(extent(unit, stage.parameter, mesh) for unit in units)
        self.peers = None if shared is None else shared(count, dtypes.weight)
        self.weights = self._arena(units, stage.parameter, dtypes.weight) if self.peers is None else self.peers.local
        for unit in tables:
            unit.in_place = self.peers is not None and stage.parameter.divided
        self._send_away(rules, keep)
        here, away = ([unit for unit in self.trainable if unit.away is there] for there in (False, True))
        self.extra = None if dtypes.extra is None else self._arena(here, stage.optimizer, dtypes.extra)
        self.states = States(self.trainable, stage, rules, mesh, device)
        self.on_host: list[HostMemory] = []
        self.extra_on_host = self._take_host_memory(away, host or Host(device))
        for unit, buffer in zip(units, self._cut(self.weights, units, stage.parameter), strict=True):
            unit.weight = buffer
        for unit in self.trainable:
            values = torch.zeros(extent(unit, stage.gradient, mesh), dtype=dtypes.gradient, device=device)
            unit.set_gradient(Buffer(values, unit.layout.held(stage.gradient, mesh)), transient)
        for arena, members in ((self.extra, here), (self.extra_on_host, away)):
            if arena is not None:
                for unit, buffer in zip(members, self._cut(arena, members, stage.optimizer), strict=True):
                    unit.extra = buffer
        self.weight_slots = self._assign_weight_slots(slots)
        for unit in units:
            unit.model_views = Views(unit.name, unit.parameters, not stage.parameter.divided, loud)
        self._ways = slots
        self.wires: dict[str, list[Slot]] = {}

    def _send_away(self, rules: Sequence, keep: int) -> None:
        """Decide which units' states lie on the host, where that is their home."""
        for unit in self.trainable:
            size = 0
            if self.stage.optimizer.memory is Memory.HOST:
                states = States([unit], self.stage, rules, self.mesh, META)
                extra = 0 if self.dtypes.extra is None else self.dtypes.extra.itemsize
                size = extent(unit, self.stage.optimizer, self.mesh) * extra + states.nbytes
            keep -= size
            unit.away = size > 0 and keep < 0

    def _take_host_memory(self, away: Sequence[Unit], host: Host) -> Tensor | None:
        """Have the arenas on the host, each in one piece; that of what completes weights."""
        if not away:
            return None
        dtype = self.dtypes.extra
        size = 0 if dtype is None else sum(extent(u, self.stage.optimizer, self.mesh) for u in away) * dtype.itemsize
        host.reserve(size + sum(self.states.host_sizes.values()), "zero.offload=states")

        def memory(size: int) -> Tensor:
            self.on_host.append(host.memory(size))
            return self.on_host[-1].bytes

        self.states.take(memory)
        return None if dtype is None else memory(size).view(dtype)

    def allocate_wires(self) -> None:
        """Make the buffers in which gradients travel, where they do not travel from where they are stored."""
        if path(own_terms(self.mesh), self.stage.gradient) or self.dtypes.gradient != self.dtypes.wire:
            for kind, size in largest_by_ring(self.trainable, lambda unit: unit.layout.total).items():
                ways = self._ways if kind == "block" else 1
                buffers = [torch.zeros(size, dtype=self.dtypes.wire, device=self.device) for _ in range(ways)]
                self.wires[kind] = [Slot(buffer) for buffer in buffers]

    def _arena(self, units: list[Unit], home: Home, dtype: torch.dtype) -> Tensor:
        return torch.zeros(sum(extent(u, home, self.mesh) for u in units), dtype=dtype, device=self.device)

    def _cut(self, arena: Tensor, units: list[Unit], home: Home) -> list[Buffer]:
        spans = [unit.layout.held(home, self.mesh) for unit in units]
        parts = arena.split([len(span) for span in spans]) if spans else ()
        return [Buffer(part, span) for part, span in zip(parts, spans, strict=True)]

    @property
    def gradients(self) -> list[Tensor]:
        """The trainable units' gradients, which may be without memory at the moment."""
        return [unit.gradient.values for unit in self.trainable]

    def _assign_weight_slots(self, count: int) -> list[Slot]:
        if not self.stage.parameter.divided:
            for unit in self.units:
                unit.slot = Slot(unit.weight.values)
            return []
        slots: list[Slot] = []
        for unit in (u for u in self.units if u.in_place):  # a shape that takes no memory
            unit.slot = Slot(torch.zeros(1, dtype=self.dtypes.weight, device=self.device).expand(unit.layout.total))
            slots.append(unit.slot)
        for kind, ways in (("block", count), ("outer", 1), ("root", 0), ("nested", 0)):
            for trainable in (True, False):  # a module's two units are needed at once
                members = [u for u in self.units if u.kind == kind and u.trainable is trainable and not u.in_place]
                size = max((u.layout.total for u in members), default=0)
                pool = [self._slot(size) for _ in members[:ways]]
                for index, unit in enumerate(members):
                    unit.slot = pool[index % ways] if pool else self._slot(unit.layout.total)
                slots += pool or [u.slot for u in members]
        return slots

    def _slot(self, size: int) -> Slot:
        return Slot(torch.zeros(size, dtype=self.dtypes.weight, device=self.device))

    def memory(self) -> dict[str, int]:
        """Bytes by kind: `parameters` (compute and master weights), `gradients`, `optimizer` (its states), `buffers`
        (slots of gathered weights and of gradients on their way); `host`: what lies there of the first and the third.
        Exact at the end of a step's backward passes, when all gradients are there."""
        slots = [*self.weight_slots, *(slot for ring in self.wires.values() for slot in ring)]
        return {
            "parameters": nbytes([self.weights, self.extra]),
            "gradients": nbytes(self.gradients),
            "optimizer": self.states.nbytes,
            "buffers": sum(slot.buffer.untyped_storage().nbytes() for slot in slots),
            "host": sum(memory.nbytes for memory in self.on_host),
        }


def update_spans(storage: Storage, unit: Unit) -> Iterator[Span]:
    """What this rank updates of a trainable unit, cut by hyperparameter group."""
    mine = unit.layout.held(storage.stage.optimizer, storage.mesh)
    return (part for span in unit.layout.spans if len(part := span.clip(mine.start, mine.stop)))
