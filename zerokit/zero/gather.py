"""Whole weights before they are used: all-gathers into slots, issued ahead of their use in the recorded order."""

from __future__ import annotations

import weakref
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode
from torch.utils.checkpoint import _CachedTorchDispatchMode, _CachingTorchDispatchMode

from zerokit.comm import Communicator
from zerokit.comm.journal import Parting
from zerokit.zero.buffer import Buffer
from zerokit.zero.model.passes import in_backward
from zerokit.zero.placement import Move, Stage, path, whole
from zerokit.zero.unit import Slot, Unit

_SELECTIVE = (_CachingTorchDispatchMode, _CachedTorchDispatchMode)


def _outside_of_checkpoints() -> AbstractContextManager:
    """A selective checkpoint counts the operations of what it recomputes; those of a gather are not among them."""
    return _disable_current_modes() if isinstance(_get_current_dispatch_mode(), _SELECTIVE) else nullcontext()


class Gatherer:
    """Makes units' weights whole before use and lets go of them after.

    [Note: slots] A unit's weights appear at one address for good, so tensors that autograd saved in forward are valid
    again once backward has gathered the unit again. A released slot keeps its contents until another unit gathers
    into it: the last blocks of the forward pass need no gather in backward. Weights change only in `step`, which
    makes every slot stale by raising `version`. Where every rank updates all weights nothing is ever stale; where only
    the optimizer is divided, slots are the persistent weights, gathered once per step.

    [Note: path of weights] The last collective on the path from what a rank updates to whole weights gathers into the
    slot. Those before it (along an outer axis of the mesh) refresh the shard that it starts from, once per step, right
    after the update, on a stream of their own: they hide behind the next forward pass.

    [Note: streams] Gathers run on their own stream. They wait for the event of the slot's last use on the compute
    stream and of the unit's update, and the compute stream waits for the gather's event; the host waits for nothing.
    Updates run on a stream of their own, unit by unit in the order of use: the first gathers and the forward pass
    start while later units are still being updated.

    [Note: reads from outside] Whoever reads a parameter that is not shown (`zerokit.zero.model.views`) uses its unit
    until the forward pass under way is over, or the next one begins. In a forward pass two units that share a slot
    cannot be used at once: that is an error on every rank, as all read the same.
    """

    def __init__(self, units: list[Unit], stage: Stage, comm: Communicator, prefetch: int = 1):
        self.units, self.comm, self.depth = units, comm, prefetch
        self.version = 0
        *self._refresh, self._gathers = (*path(stage.optimizer, whole(comm.mesh)),) or (None,)
        self.order: list[Unit] = []
        self._cursor = 0
        self.running = False  # a forward pass is under way
        self._persistent = not stage.parameter.divided
        self._holders = Counter(id(unit.slot) for unit in units)
        self._read: list[Unit] = []  # from outside their modules
        self._numbers = {unit: number for number, unit in enumerate(units)}
        self._journal = None if self._persistent else comm.open_journal()
        for unit in units:
            span = unit.layout.held(self._gathers.source if self._gathers else stage.optimizer, comm.mesh)
            unit.shard = Buffer(unit.weight.at(span), span)
        for unit in units if self._persistent else ():  # materialising the model has written their whole weights
            unit.slot.owner, unit.slot.version = unit, self.version

    @property
    def takes_turns(self) -> bool:
        """Whether any units share memory."""
        return any(self.shares(unit) for unit in self.units)

    def shares(self, unit: Unit) -> bool:
        """Whether other units take turns with this one in its memory."""
        return not self._persistent and self._holders[id(unit.slot)] > 1

    # -- use ---------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A forward pass starts: follow the recorded order from its beginning."""
        self.end()
        self.running, self._cursor = True, 0

    def end(self) -> None:
        """A forward pass is over: nobody uses what was read from outside."""
        self.running = False
        while self._read:
            self.release(self._read.pop())

    def let_read(self, unit: Unit) -> None:
        """Gather the unit for whoever reads its parameters from the model."""
        gatherer, weak_unit = weakref.ref(self), weakref.ref(unit)

        def read(in_pass_only: bool = False) -> None:
            here = gatherer()
            if here is None:
                raise RuntimeError("The engine of this model is gone, and with it the weights: keep the engine.")
            if not in_pass_only or here.running or in_backward():
                here.read(weak_unit())

        unit.model_views.read, unit.model_views.look = read, partial(read, in_pass_only=True)

    def read(self, unit: Unit) -> None:
        """Somebody reads the unit's parameters, perhaps not in the forward of its module."""
        if unit.in_place:
            raise RuntimeError(
                f"The rows of '{unit.name}' are read where they lie, so it has no whole weight to read. Call the "
                "module, read it inside `with engine.gathered():`, or set zero.transport=collective."
            )
        self._read.append(unit)
        self.activate(unit, backward=in_backward())

    def activate(self, unit: Unit, backward: bool = False) -> None:
        """Make later work on the compute stream see the unit's whole weights.

        backward: autograd enters units in the opposite order of the forward pass, so whoever held the slot is done.
        """
        slot = unit.slot
        if slot.active and self._is_fresh(unit, slot):
            self._show(unit)
            return
        if slot.active and backward:
            self._let_go(slot)
        if slot.active and slot.owner is not unit:
            raise RuntimeError(
                f"'{unit.name}' and '{slot.owner.name}' need whole weights at the same time, but share memory for "
                "them. Name modules in zero.units that do not run inside one another, nor use each other's parameters; "
                "outside of a forward pass read parameters inside `with engine.gathered():`."
            )
        self._follow(unit)
        self._gather(unit)
        self._settle(unit)
        slot.active = True
        self._show(unit)
        self.prefetch()

    def _show(self, unit: Unit) -> None:
        if not unit.model_views.readable and not unit.in_place:
            unit.model_views.show(self.version if unit.trainable else 0)

    def _settle(self, unit: Unit) -> None:
        """Make later work on the compute stream see the weights in the unit's slot."""
        if unit.slot.ready is not None:
            self.comm.compute.wait(unit.slot.ready)
            unit.slot.ready = None
        elif unit.updated is not None:  # written by the update itself, or not gathered from others
            self.comm.compute.wait(unit.updated)
            unit.updated = None
        unit.drop_gradient()

    def release(self, unit: Unit) -> None:
        """The unit's weights are not needed for now."""
        slot = unit.slot
        if slot.active and slot.owner is unit:
            self._let_go(slot)
            self.prefetch()

    def _let_go(self, slot: Slot) -> None:
        slot.active = False
        slot.free = self.comm.compute.record()
        slot.owner.model_views.rest()

    def release_all(self) -> None:
        """No unit's weights are needed for now (the end of a backward pass)."""
        for unit in self.units:
            self.release(unit)

    # -- order -------------------------------------------------------------------------------------------------------

    def _follow(self, unit: Unit) -> None:
        if self._cursor < len(self.order) and self.order[self._cursor] is unit:
            self._cursor += 1
            return
        del self.order[self._cursor :]  # the model took another way: record it anew from here
        self.order.append(unit)
        self._cursor += 1

    def prefetch(self) -> None:
        """Start gathering the units that come next, as far as their slots are free.

        One more than `depth` if it has its slot for itself: a head takes longer to gather than a block computes.
        """
        waiting: set[int] = set()  # slots that a unit before this one in the order needs first
        for place, unit in enumerate(self.order[self._cursor : self._cursor + self.depth + (self.depth > 0)]):
            if place == self.depth and self._holders[id(unit.slot)] > 1:
                break
            if id(unit.slot) not in waiting and not unit.slot.active:
                self._gather(unit)
            waiting.add(id(unit.slot))

    # -- data --------------------------------------------------------------------------------------------------------

    def _is_fresh(self, unit: Unit, slot: Slot) -> bool:
        return slot.owner is unit and (slot.version == self.version or not unit.trainable)

    def _gather(self, unit: Unit) -> None:
        slot = unit.slot
        if self._is_fresh(unit, slot):
            return
        if self._journal is not None:
            self._agree(self._journal.write(self._numbers[unit]))
        if self._gathers is not None:
            with self.comm.gathers as stream:
                stream.wait(slot.free)
                stream.wait(unit.updated)
                if unit.fenced != self.version:
                    self.comm.fence()
                    unit.fenced = self.version
                if not unit.in_place:
                    with _outside_of_checkpoints():
                        self._all_gather(unit)
                slot.ready = stream.record()
        if slot.owner is not None and slot.owner is not unit:
            slot.owner.model_views.hide()
        slot.owner, slot.version, slot.free = unit, self.version, None

    def _all_gather(self, unit: Unit) -> None:
        try:
            self.comm.all_gather(unit.slot.buffer[: unit.layout.total], unit.shard.values, self._gathers.axis)
        except RuntimeError as error:
            if self._journal is not None and (parting := self._journal.compare()) is not None:
                raise self._parted(parting) from error
            raise

    def _agree(self, parting: Parting | None) -> None:
        if parting is not None:
            raise self._parted(parting)

    def _parted(self, parting: Parting) -> RuntimeError:
        mine, theirs = (self.units[number].name for number in (parting.mine, parting.theirs))
        ranks = (self.comm.rank, self.comm.mesh.row(self.comm.mesh.innermost)[parting.other])
        return RuntimeError(
            f"The ranks run different modules: rank {ranks[0]} needs the weights of '{mine}', rank "
            f"{ranks[1]} those of '{theirs}', and each has a part of both. Name in zero.units a module that "
            "contains all among which the ranks choose, or name other modules only: what is left over is whole during "
            "a step. Or divide no parameters (zero.stage=2)."
        )

    def weights_changed(self) -> None:
        """The update of every unit has been issued: persistent weights are gathered now, others when needed."""
        self._change()
        for move in self._refresh:
            self._refresh_shards(move)
        for unit in self.units if self._persistent else ():
            unit.slot.free = None  # updates come after every use
            self._gather(unit)
        self._cursor = 0
        self.prefetch()

    def _refresh_shards(self, move: Move) -> None:
        """Gather what other groups of ranks have updated. In one order on all ranks."""
        mesh = self.comm.mesh
        for unit in (unit for unit in self.units if unit.trainable):
            part, full = (unit.weight.at(unit.layout.held(home, mesh)) for home in (move.source, move.to))
            with self.comm.stream(move.axis) as stream:
                stream.wait(unit.updated)
                self.comm.all_gather(full, part, move.axis)
                unit.updated = stream.record()

    def _change(self) -> None:
        """The weights are others from here on: a graph that was made with those before is of no use."""
        self.version += 1
        self.end()
        for unit in self.units:
            if unit.trainable:
                unit.model_views.hide()

    def settle(self) -> None:
        """Make later work on the compute stream see every persistent weight and every shard."""
        for unit in self.units:
            if self._persistent:
                self._gather(unit)
                self._settle(unit)
            self.comm.compute.wait(unit.updated)

    def in_order_of_use(self, units: list[Unit]) -> list[Unit]:
        """`units` as the last forward pass met them, the others first."""
        places: dict[Unit, int] = {}
        for place, unit in enumerate(self.order):
            places.setdefault(unit, place)
        return sorted(units, key=lambda unit: places.get(unit, -1))

    def finish(self) -> None:
        """Make later work on the compute stream follow every gather, also those that were not used."""
        self.comm.compute.wait(self.comm.gathers.record())

    def invalidate(self) -> None:
        """Take no sharded weights for gathered: what slots hold is not known (around a recorded step)."""
        self._change()
        for unit in self.units:
            if self._persistent:
                unit.slot.version = self.version
            elif not unit.slot.active:
                unit.model_views.hide()
                unit.slot.owner = None

    def forget_events(self) -> None:
        """Drop the events of slots and updates, which are done."""
        for unit in self.units:
            unit.slot.ready = unit.slot.free = unit.updated = None
