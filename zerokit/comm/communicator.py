"""Every collective of zerokit goes through here, where its bytes are counted."""

from __future__ import annotations

from collections import Counter

import torch
import torch.distributed as dist
from torch import Tensor

from zerokit.comm.stream import Stream

# torch 2.13 renamed both; 2.11 has the older names only
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Communicator:
    """The ranks that share one model, and the streams its collectives run on.

    Gathers and reductions have a process group and a stream each, so that a gather that is needed now never queues
    behind a reduction that nobody waits for yet. With one rank every collective is a copy or nothing.

    `calls` and `traffic` count the collectives issued and their bytes by kind; the bytes are those of the full
    (gathered or unreduced) buffer.
    """

    def __init__(self, device: torch.device, ranks: int | None = None):
        ready = dist.is_available() and dist.is_initialized()
        self.device = device
        self.world = (dist.get_world_size() if ready else 1) if ranks is None else ranks
        self.rank = dist.get_rank() if ready else 0
        separate = device.type == "cuda" and self.world > 1
        self._gather_group = dist.new_group() if separate else None
        self._reduce_group = dist.new_group() if separate else None
        self.compute = Stream(device, current=True)
        self.gathers = Stream(device, priority=-1)
        self.reductions = Stream(device, priority=-1)
        self.calls: Counter[str] = Counter()
        self.traffic: Counter[str] = Counter()

    def reset_counters(self) -> None:
        """Start counting collectives and bytes from zero."""
        self.calls.clear()
        self.traffic.clear()

    def _count(self, kind: str, full: Tensor) -> None:
        self.calls[kind] += 1
        self.traffic[kind] += full.numel() * full.element_size()

    def all_gather(self, full: Tensor, shard: Tensor) -> None:
        """Concatenate every rank's `shard` (n,) into `full` (world × n,). `shard` may be this rank's part of `full`."""
        self._count("all_gather", full)
        _all_gather(full, shard, group=self._gather_group)

    def reduce_scatter(self, shard: Tensor, full: Tensor) -> None:
        """Sum `full` (world × n,) over the ranks and leave this rank's part in `shard` (n,), which may lie in `full`."""
        self._count("reduce_scatter", full)
        _reduce_scatter(shard, full, group=self._reduce_group)

    def all_reduce(self, tensor: Tensor, kind: str = "all_reduce", maximum: bool = False) -> None:
        """Sum (or take the maximum of) `tensor` over the ranks, in place."""
        if self.world > 1:
            self._count(kind, tensor)
            dist.all_reduce(tensor, dist.ReduceOp.MAX if maximum else dist.ReduceOp.SUM, group=self._reduce_group)

    def broadcast(self, tensor: Tensor, source: int = 0) -> None:
        """Give every rank the values of `source`, in place."""
        if self.world > 1:
            self._count("broadcast", tensor)
            dist.broadcast(tensor, source)

    def gather_row(self, row: list[float | Tensor]) -> list[list[float]]:
        """Every rank's numbers (of the same count), in the order of the ranks. The host waits for the device."""
        table = torch.zeros(self.world, len(row), dtype=torch.float64, device=self.device)
        table[self.rank] = torch.stack([torch.as_tensor(x, dtype=torch.float64, device=self.device) for x in row])
        self.all_reduce(table, kind="metrics")
        return table.tolist()

    def gather_objects(self, value: object) -> list:
        """Every rank's `value`, in the order of the ranks (small Python objects; not for the step)."""
        if self.world == 1:
            return [value]
        values: list = [None] * self.world
        dist.all_gather_object(values, value)
        return values
