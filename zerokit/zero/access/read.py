"""Whole weights for reading: hashes, exports, and code that looks at a model's parameters."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from zerokit.comm import Communicator
from zerokit.zero.buffer import gather
from zerokit.zero.gather import Gatherer
from zerokit.zero.placement import Home
from zerokit.zero.storage import Storage
from zerokit.zero.unit import Unit


def _add_bytes(digest: Any, tensor: Tensor) -> None:
    """Feed the bytes of a tensor to a hash, not copied where it lies contiguous on the CPU."""
    tensor = tensor.cpu().contiguous()  # kept alive by this name while its memory is read
    digest.update((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr()))


class WeightReader:
    """Gathers what an engine's ranks hold."""

    def __init__(self, storage: Storage, comm: Communicator, gatherer: Gatherer, master: Any):
        self._storage, self._comm, self._gatherer, self._master = storage, comm, gatherer, master
        places = [(name, unit, index) for unit in storage.units for index, name in enumerate(unit.names)]
        self._named = sorted(places, key=lambda place: place[0])
        self.open = False

    def master(self, unit: Unit) -> tuple[Tensor, Home]:
        """The fp32 values this rank holds of a unit, and their home."""
        stage = self._storage.stage
        if unit.extra is None:
            return unit.weight.values.float(), stage.parameter
        return self._master.load(unit.weight.at(unit.extra.span), unit.extra.values), stage.optimizer

    def compute(self, unit: Unit) -> Tensor:
        """The unit's whole compute weights (layout.total,), where they lie if every rank has them. A collective."""
        return gather(self._comm, unit.layout, self._storage.stage.parameter, unit.weight.values)

    def begin(self) -> None:
        """Wait until every rank has written its shards, and no other gather and no copy of the state is under way."""
        self._comm.compute.wait(self._comm.copied)
        self._gatherer.settle()
        self._gatherer.finish()
        self._comm.updated()
        self._comm.fence()
        self._comm.gathers.wait(self._comm.compute.record())  # or its next fence could overtake this one

    def whole_unit(self, unit: Unit) -> Tensor:
        """The unit's whole fp32 master weights (layout.total,). A collective."""
        values, home = self.master(unit)
        return gather(self._comm, unit.layout, home, values.contiguous())

    def whole_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and whole fp32 values, sorted by name."""
        self.begin()
        unit_now, views = None, []
        for name, unit, index in self._named:
            if unit is not unit_now:
                unit_now, views = unit, unit.views(self.whole_unit(unit))
            yield name, views[index]

    def sha256(self) -> str:
        """Digest of all whole fp32 weights in the order of their names. A collective."""
        digest = hashlib.sha256()
        for name, value in self.whole_weights():
            digest.update(name.encode())
            _add_bytes(digest, value)
        return digest.hexdigest()

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Point every parameter at whole weights of its own for the time of the block."""
        self.begin()
        if not self._storage.stage.parameter.divided:
            yield
            return
        with ExitStack() as lent:
            for unit in self._storage.units:
                whole = unit.views(self.compute(unit))
                lent.enter_context(unit.model_views.lend(range(len(unit.parameters)), whole))
            self.open = True
            lent.callback(self._close)
            yield

    def _close(self) -> None:
        self.open = False
