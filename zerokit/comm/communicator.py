"""Every collective of zerokit goes through here, where its bytes are counted."""

from __future__ import annotations

import os
from collections import Counter
from datetime import timedelta
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor

from zerokit.comm.journal import PATH_BYTES, Journal
from zerokit.comm.mesh import Mesh, make_mesh
from zerokit.comm.peer import PeerMemory, share
from zerokit.comm.pinned import Host
from zerokit.comm.stream import COMMUNICATION, UPDATE, Stream

# torch 2.13 renamed both; 2.11 has the older names only
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


GATHER, REDUCE = "gather", "reduce"


@lru_cache(maxsize=8)
def _make_group(_world: dist.ProcessGroup, mesh: Mesh, axis: int | None, _purpose: str,
                timeout_s: float | None) -> dist.ProcessGroup:  # fmt: skip
    timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
    if axis is None:
        return dist.new_group(timeout=timeout)
    groups = {tuple(row): dist.new_group(row, timeout=timeout) for row in mesh.rows(axis)}
    return groups[tuple(mesh.row(axis))]


def _side_group(mesh: Mesh, axis: int | None, purpose: str, timeout_s: float | None) -> dist.ProcessGroup:
    """The process group of this rank's row along an axis (None: of all ranks), made once for a purpose: each holds
    memory of the GPU for good."""
    return _make_group(dist.group.WORLD, mesh, axis, purpose, timeout_s)


class Communicator:
    """The ranks that share one model, as a mesh, and the streams its collectives run on.

    Gathers and reductions have a process group and a stream each, so that a gather that is needed now never queues
    behind a reduction that nobody waits for yet; an outer axis of the mesh has a group and a stream for both. With one
    rank every collective is a copy or nothing.

    Collectives take an `axis` of the mesh; None means all ranks.

    timeout_s: seconds that a collective on a GPU waits for the other ranks. shard_size: ranks along the innermost of
    two axes; None makes one axis. `calls` and `traffic` count the collectives issued and their bytes by kind; the bytes
    are those of the full (gathered or unreduced) buffer.

    Raises:
        ValueError: `shard_size` does not divide the number of ranks.
    """

    def __init__(self, device: torch.device, timeout_s: float | None = None, shard_size: int | None = None):
        ready = dist.is_available() and dist.is_initialized()
        self.device = device
        self.mesh = make_mesh(dist.get_world_size() if ready else 1, dist.get_rank() if ready else 0, shard_size)
        self._groups = self._make_groups(timeout_s)
        self.compute = Stream(device, current=True)
        self.gathers = Stream(device, priority=COMMUNICATION)
        self.reductions = Stream(device, priority=COMMUNICATION)
        self.updates = Stream(device, priority=UPDATE)
        self._outer = Stream(device, priority=COMMUNICATION) if len(self.mesh.sizes) > 1 else None
        # The two directions of the link to the host's memory, which are busy at once.
        self.fetches, self.returns = (Stream(device, priority=COMMUNICATION) for _ in range(2))
        self.host = Host(device, self._any)
        # What writes the state waits for this: the newest copy of it beside the training has been taken. One event for
        # good, so that a recorded step waits for it too.
        self.copied = None
        if device.type == "cuda":
            self.copied = torch.cuda.Event(external=True)
            self.copied.record(torch.cuda.current_stream(device))
        self._peer: PeerMemory | None = None
        self._channels = 0
        self.shared_bytes = 0  # of peer memory, which torch's statistics of allocated memory leave out
        self.calls: Counter[str] = Counter()
        self.traffic: Counter[str] = Counter()
        self.begun, self.last = 0, "none"  # of all collectives of this rank, to tell which rank is behind

    @property
    def rank(self) -> int:
        """This rank among all."""
        return self.mesh.rank

    @property
    def world(self) -> int:
        """All ranks."""
        return self.mesh.world

    def _make_groups(self, timeout_s: float | None) -> dict[tuple[int | None, str], dist.ProcessGroup]:
        """Process groups by axis and purpose, as far as they need be others than `_group` finds instead."""
        mesh, inner = self.mesh, self.mesh.innermost
        separate, several = self.device.type == "cuda" and mesh.world > 1, len(mesh.sizes) > 1
        wanted = [(None, GATHER), (None, REDUCE)] if separate else []
        wanted += [(axis, REDUCE) for axis in range(len(mesh.sizes)) if several and mesh.world > 1]
        wanted += [(inner, GATHER)] if separate and several else []
        return {key: _side_group(mesh, *key, timeout_s) for key in wanted}

    def _group(self, axis: int | None, purpose: str) -> dist.ProcessGroup | None:
        """Along an axis; one axis is that of all ranks, and one group may serve both purposes. None: the default."""
        axis = axis if len(self.mesh.sizes) > 1 else None
        return self._groups.get((axis, purpose)) or self._groups.get((axis, REDUCE))

    @property
    def outer(self) -> Stream:
        """For collectives along outer axes of the mesh, that of reductions if there are none."""
        return self._outer or self.reductions

    def stream(self, axis: int) -> Stream:
        """On which reductions along an axis run, and gathers along an outer one."""
        return self.reductions if axis == self.mesh.innermost else self.outer

    @property
    def streams(self) -> tuple[Stream, ...]:
        """All that run beside the compute stream."""
        return tuple(
            dict.fromkeys((self.gathers, self.reductions, self.outer, self.updates, self.fetches, self.returns))
        )

    def updated(self) -> None:
        """Make later work on the compute stream see all that updates have written, on the host too."""
        for stream in (self.updates, self.returns):
            self.compute.wait(stream.record())

    def fetch(self, target: Tensor, source: Tensor) -> None:
        """Copy `source`, on the host, to the device. Like a collective it runs on the current stream."""
        self.traffic["fetch"] += source.nbytes
        self._copy(target, source)

    def give_back(self, target: Tensor, source: Tensor) -> None:
        """Copy `source` to the host."""
        self.traffic["give_back"] += source.nbytes
        self._copy(target, source)

    def _copy(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source, non_blocking=True)

    def _any(self, here: bool) -> bool:
        """Whether something is so on any rank. A collective; the host waits."""
        flag = torch.tensor(float(here), device=self.device)
        self.all_reduce(flag, kind="control", maximum=True)
        return bool(flag)

    def _kind(self, kind: str, axis: int | None) -> str:
        outer = axis is not None and axis != self.mesh.innermost
        return f"outer_{kind}" if outer else kind

    def reset_counters(self) -> None:
        """Start counting collectives and bytes from zero."""
        self.calls.clear()
        self.traffic.clear()

    def fork(self) -> None:
        """Let the side streams follow the compute stream from here on."""
        here = self.compute.record()
        for stream in self.streams:
            stream.wait(here)

    def join(self) -> None:
        """Let the compute stream follow everything issued on the side streams."""
        for stream in self.streams:
            self.compute.wait(stream.record())

    def count(self, kind: str, size: int) -> None:
        """Note a collective of `size` bytes."""
        self.begun, self.last = self.begun + 1, kind
        self.calls[kind] += 1
        self.traffic[kind] += size

    def allocate_shared(self, elements: int, dtype: torch.dtype) -> PeerMemory | None:
        """Zeros (elements,) for the weights that the other ranks read directly, once per communicator; None where the
        hardware cannot."""
        assert self._peer is None, "there is one shared arena of weights"
        self._peer = self.peer_memory(elements, dtype)
        return self._peer

    def forget_shared(self) -> None:
        """The memory of weights is not used any more."""
        if self._peer is not None:
            self.shared_bytes -= self._peer.nbytes
            self._peer = None

    def peer_memory(self, elements: int, dtype: torch.dtype) -> PeerMemory | None:
        """Memory (elements,) of every rank along the innermost axis, which those all reach; None where the hardware
        cannot."""
        inner = self.mesh.innermost
        if self.mesh.sizes[inner] == 1 or self.device.type != "cuda":
            return None
        self._channels += 1
        group, everybody = self._group(inner, GATHER), self._group(None, REDUCE)
        memory = share(elements, dtype, self.device, self.mesh, group, everybody, self._channels)
        self.shared_bytes += 0 if memory is None else memory.nbytes
        return memory

    def open_journal(self) -> Journal | None:
        """Where the ranks along the innermost axis compare what they gather; None where that is one rank, or several
        hosts. A collective."""
        inner = self.mesh.innermost
        size = self.mesh.sizes[inner]
        on_one_host = int(os.environ.get("LOCAL_WORLD_SIZE", self.world)) % size == 0
        if size == 1 or not on_one_host or self.device.type == "meta" or "fake" in dist.get_backend():
            return None
        return Journal(self.mesh.coordinate(inner), size, self._share_text, waits=self.device.type == "cpu")

    def _share_text(self, text: str) -> str:
        """The text of the first rank along the innermost axis, of at most `PATH_BYTES` bytes. The host waits for the
        device."""
        inner = self.mesh.innermost
        letters = torch.tensor(list(text.encode().ljust(PATH_BYTES)), dtype=torch.uint8, device=self.device)
        self.all_reduce(letters.mul_(self.mesh.coordinate(inner) == 0), kind="text", axis=inner)
        return bytes(letters.tolist()).decode().strip()

    def fence(self) -> None:
        """Before shards written on this stream are gathered: wait until every rank has written its own."""
        if self._peer is not None:
            self._peer.barrier()

    def all_gather(self, full: Tensor, shard: Tensor, axis: int | None = None) -> None:
        """Concatenate the `shard` (n,) of every rank into `full` (ranks × n,). `shard` may be this rank's part of
        `full`."""
        self.count(self._kind("all_gather", axis), full.nbytes)
        if axis == self.mesh.innermost and self._peer is not None and self._peer.holds(shard):
            self._peer.all_gather(full, shard)
            return
        _all_gather(full, shard, group=self._group(axis, GATHER))

    def reduce_scatter(self, shard: Tensor, full: Tensor, axis: int | None = None) -> None:
        """Sum `full` (ranks × n,) over the ranks; this rank's part goes to `shard` (n,), which may lie in `full`."""
        self.count(self._kind("reduce_scatter", axis), full.nbytes)
        _reduce_scatter(shard, full, group=self._group(axis, REDUCE))

    def all_to_all(self, result: Tensor, given: Tensor, taken_splits: list[int], given_splits: list[int]) -> None:
        """Give each rank its part of `given`; `result` takes what every rank has for this one, in their order."""
        if self.world == 1:
            result.copy_(given)
            return
        self.count("all_to_all", given.nbytes)
        dist.all_to_all_single(result, given, taken_splits, given_splits, group=self._group(None, REDUCE))

    def all_reduce(self, tensor: Tensor, kind: str = "all_reduce", maximum: bool = False,
                   axis: int | None = None) -> None:  # fmt: skip
        """Sum (or take the maximum of) `tensor` over the ranks, in place."""
        if self.world > 1:
            self.count(self._kind(kind, axis), tensor.nbytes)
            operation = dist.ReduceOp.MAX if maximum else dist.ReduceOp.SUM
            dist.all_reduce(tensor, operation, group=self._group(axis, REDUCE))

    def broadcast(self, tensor: Tensor, source: int = 0) -> None:
        """Give every rank the values of `source`, in place."""
        if self.world > 1:
            self.count("broadcast", tensor.nbytes)
            dist.broadcast(torch.view_as_real(tensor) if tensor.is_complex() else tensor, source)

    def gather_row(self, row: list[float | Tensor]) -> list[list[float]]:
        """Every rank's numbers (of the same count), in the order of the ranks. The host waits for the device."""
        table = torch.zeros(self.world, len(row), dtype=torch.float64, device=self.device)
        table[self.rank] = torch.stack([torch.as_tensor(x, dtype=torch.float64, device=self.device) for x in row])
        self.all_reduce(table, kind="metrics")
        return table.tolist()
