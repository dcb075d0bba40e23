"""Finds races between the streams of an engine on the CPU, where work is done at once and in one order.

Stands in for the streams of a `Communicator`, and follows every operation: which memory it reads and writes, on which
stream, and what that stream has waited for (vector clocks, as in torch.cuda._sanitizer). Two uses of the same bytes, of
which one writes, race if neither stream has waited for the other. Memory that is freed goes back to the stream that
allocated it, which must have waited for every use.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import zerokit
from zerokit.comm import Communicator

PACKAGE = os.path.dirname(zerokit.__file__) + os.sep
SIDES = ("gathers", "reductions", "updates", "fetches", "returns")


class Event:
    """A point on a stream."""

    def __init__(self, device: FakeDevice, clock: Counter):
        self._device, self.clock = device, clock

    def synchronize(self) -> None:
        self._device.host |= self.clock  # what the host issues from here on comes later


class FakeStream:
    """Has the methods of `zerokit.comm.Stream`."""

    def __init__(self, device: FakeDevice, name: str):
        self._device, self.name, self.clock = device, name, Counter()

    def record(self, event: Event | None = None) -> Event:
        self._device.sweep()
        event = event or Event(self._device, Counter())
        event.clock = self.clock | self._device.host
        return event

    def wait(self, event: Event | None) -> None:
        self._device.sweep()
        if event is not None:
            self.clock |= event.clock

    def __enter__(self) -> FakeStream:
        self._device.current.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._device.current.pop()


@dataclass
class Use:
    """Bytes `[start, stop)` of a storage, read or written by operation number `time` of a stream."""

    start: int
    stop: int
    writes: bool
    stream: str
    time: int
    where: str


@dataclass
class Memory:
    """A storage: the stream that allocated it, and its uses."""

    alive: StorageWeakRef
    home: FakeStream
    uses: list[Use] = field(default_factory=list)


class FakeDevice(TorchDispatchMode):
    """Use as a context around what shall be followed; `races` says what was found."""

    def __init__(self, comm: Communicator):
        super().__init__()
        self.host: Counter = Counter()
        self.races: list[str] = []
        self._memory: dict[int, Memory] = {}
        comm.compute = FakeStream(self, "compute")
        self.current = [comm.compute]
        for name in SIDES:
            setattr(comm, name, FakeStream(self, name))
        comm.copied = Event(self, Counter())

    def __enter__(self) -> FakeDevice:
        self._resize = torch.UntypedStorage.resize_
        torch.UntypedStorage.resize_ = lambda storage, size: self._resized(storage, size)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        torch.UntypedStorage.resize_ = self._resize
        super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.sweep()
        written, read = self._operands(func, args, kwargs, result)
        stream = self.current[-1]
        stream.clock |= self.host
        stream.clock[stream.name] += 1
        where = f"{func} on {stream.name} at {_place()}"
        for tensors, writes in ((written, True), (read, False)):
            for tensor in tensors:
                self._use(tensor, writes, stream, where)
        return result

    @staticmethod
    def _operands(func, args: tuple, kwargs: dict, result) -> tuple[list[Tensor], list[Tensor]]:
        schema = func._schema
        if func.namespace == "c10d":
            tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            return _of_collective(schema.name.split("::")[1], tensors)
        if schema.returns and all(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns):
            return [], []  # a view
        written, read = [], []
        for place, argument in enumerate(schema.arguments):
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            target = written if argument.alias_info is not None and argument.alias_info.is_write else read
            target += [t for t in tree_leaves(given) if isinstance(t, Tensor)]
        known = {t.untyped_storage()._cdata for t in (*written, *read)}
        new = [t for t in tree_leaves(result) if isinstance(t, Tensor) and t.untyped_storage()._cdata not in known]
        return written + new, read

    def _use(self, tensor: Tensor, writes: bool, stream: FakeStream, where: str) -> None:
        storage = tensor.untyped_storage()
        if not tensor.numel() or storage._cdata == 0:
            return
        memory = self._memory.get(storage._cdata)
        if memory is None:
            memory = self._memory[storage._cdata] = Memory(StorageWeakRef(storage), stream)
        start = tensor.storage_offset() * tensor.itemsize
        stop = start + tensor.itemsize * (
            1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        )
        use = Use(start, stop, writes, stream.name, stream.clock[stream.name], where)
        kept = []
        for other in memory.uses:
            before = stream.clock[other.stream] >= other.time
            if other.start < stop and start < other.stop and (writes or other.writes) and not before:
                self.races.append(f"{where} ({'writes' if writes else 'reads'}) does not follow {other.where}")
            covered = start <= other.start and other.stop <= stop
            if not (before and covered and (writes or not other.writes)):
                kept.append(other)
        memory.uses = [*kept, use]

    def sweep(self) -> None:
        """Look at what has been freed."""
        for key in [key for key, memory in self._memory.items() if memory.alive.expired()]:
            self._freed(self._memory.pop(key))

    def _freed(self, memory: Memory) -> None:
        for use in memory.uses:
            if (memory.home.clock | self.host)[use.stream] < use.time:
                self.races.append(f"memory of {memory.home.name} is free at {_place()} in spite of {use.where}")

    def _resized(self, storage: torch.UntypedStorage, size: int) -> None:
        memory = self._memory.pop(storage._cdata, None)
        if memory is not None:
            self._freed(memory)
        self._resize(storage, size)
        if size:
            self._memory[storage._cdata] = Memory(StorageWeakRef(storage), self.current[-1])


def _of_collective(name: str, tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What an operation of c10d writes and reads."""
    if name not in ("_allgather_base_", "_reduce_scatter_base_", "alltoall_base_"):
        return tensors, []  # in place
    written, read = tensors
    if name == "_allgather_base_" and read.untyped_storage()._cdata == written.untyped_storage()._cdata:
        first = read.storage_offset() - written.storage_offset()  # this rank's own part stays as it is
        return [written[:first], written[first + len(read) :]], [read]
    return [written], [read]


def _place() -> str:
    """The innermost lines of zerokit that are being run."""
    frame, found = sys._getframe(1), []
    while frame is not None and len(found) < 3:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE):
            found.append(f"{path[len(PACKAGE) :]}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(found)
