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
from zerokit.comm.peer import PeerMemory, share
from zerokit.comm.stream import COMMUNICATION, UPDATE, Stream

# torch 2.13 renamed both; 2.11 has the older names only
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@lru_cache(maxsize=1)
def _make_groups(world: dist.ProcessGroup, timeout_s: float | None) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
    return dist.new_group(timeout=timeout), dist.new_group(timeout=timeout)


def _side_groups(timeout_s: float | None) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    """Two process groups of all ranks, made once: each holds memory of the GPU for good."""
    return _make_groups(dist.group.WORLD, timeout_s)


class Communicator:
    """The ranks that share one model, and the streams its collectives run on.

    Gathers and reductions have a process group and a stream each, so that a gather that is needed now never queues
    behind a reduction that nobody waits for yet. With one rank every collective is a copy or nothing.

    timeout_s: seconds that a collective on a GPU waits for the other ranks. `calls` and `traffic` count the collectives
    issued and their bytes by kind; the bytes are those of the full (gathered or unreduced) buffer.
    """

    def __init__(self, device: torch.device, timeout_s: float | None = None):
        ready = dist.is_available() and dist.is_initialized()
        self.device = device
        self.world = dist.get_world_size() if ready else 1
        self.rank = dist.get_rank() if ready else 0
        separate = device.type == "cuda" and self.world > 1
        self._gather_group, self._reduce_group = _side_groups(timeout_s) if separate else (None, None)
        self.compute = Stream(device, current=True)
        self.gathers = Stream(device, priority=COMMUNICATION)
        self.reductions = Stream(device, priority=COMMUNICATION)
        self.updates = Stream(device, priority=UPDATE)
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

    def reset_counters(self) -> None:
        """Start counting collectives and bytes from zero."""
        self.calls.clear()
        self.traffic.clear()

    def fork(self) -> None:
        """Let the side streams follow the compute stream from here on."""
        here = self.compute.record()
        for stream in (self.gathers, self.reductions, self.updates):
            stream.wait(here)

    def join(self) -> None:
        """Let the compute stream follow everything issued on the side streams."""
        for stream in (self.gathers, self.reductions, self.updates):
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
        """Memory (elements,) of every rank that all ranks reach; None where the hardware cannot."""
        if self.world == 1 or self.device.type != "cuda":
            return None
        self._channels += 1
        memory = share(elements, dtype, self.device, self._gather_group, self._channels)
        self.shared_bytes += 0 if memory is None else memory.nbytes
        return memory

    def open_journal(self) -> Journal | None:
        """Where the ranks of one host compare what they gather; None where there is one rank, or several hosts. A
        collective."""
        on_one_host = int(os.environ.get("LOCAL_WORLD_SIZE", self.world)) == self.world
        if self.world == 1 or not on_one_host or self.device.type == "meta" or "fake" in dist.get_backend():
            return None
        return Journal(self.rank, self.world, self._share_text, waits=self.device.type == "cpu")

    def _share_text(self, text: str) -> str:
        """The text of rank 0, of at most `PATH_BYTES` bytes. The host waits for the device."""
        letters = torch.tensor(list(text.encode().ljust(PATH_BYTES)), dtype=torch.uint8, device=self.device)
        self.all_reduce(letters.mul_(self.rank == 0), kind="text")
        return bytes(letters.tolist()).decode().strip()

    def fence(self) -> None:
        """Before shards written on this stream are gathered: wait until every rank has written its own."""
        if self._peer is not None:
            self._peer.barrier()

    def all_gather(self, full: Tensor, shard: Tensor) -> None:
        """Concatenate every rank's `shard` (n,) into `full` (world × n,). `shard` may be this rank's part of `full`."""
        self.count("all_gather", full.nbytes)
        if self._peer is not None and self._peer.holds(shard):
            self._peer.all_gather(full, shard)
            return
        _all_gather(full, shard, group=self._gather_group)

    def reduce_scatter(self, shard: Tensor, full: Tensor) -> None:
        """Sum `full` (world × n,) over the ranks; this rank's part goes to `shard` (n,), which may lie in `full`."""
        self.count("reduce_scatter", full.nbytes)
        _reduce_scatter(shard, full, group=self._reduce_group)

    def all_to_all(self, result: Tensor, given: Tensor, taken_splits: list[int], given_splits: list[int]) -> None:
        """Give each rank its part of `given`; `result` takes what every rank has for this one, in their order."""
        if self.world == 1:
            result.copy_(given)
            return
        self.count("all_to_all", given.nbytes)
        dist.all_to_all_single(result, given, taken_splits, given_splits, group=self._reduce_group)

    def all_reduce(self, tensor: Tensor, kind: str = "all_reduce", maximum: bool = False) -> None:
        """Sum (or take the maximum of) `tensor` over the ranks, in place."""
        if self.world > 1:
            self.count(kind, tensor.nbytes)
            dist.all_reduce(tensor, dist.ReduceOp.MAX if maximum else dist.ReduceOp.SUM, group=self._reduce_group)

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
