"""Micro-batches of one rank, copied to its device ahead of their use."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from zerokit.comm.stream import use_device

Batch = tuple[Tensor, Tensor]


class Loader:
    """The micro-batches of `rank`, in order. Sample i of the run is the same for every number of ranks.

    Micro-batch m of step s on rank r holds the samples from `(s * accumulation * world + m * world + r) * micro` on.
    On a GPU the next micro-batch is cut and pinned by a thread while the current one is used.
    """

    def __init__(self, source: Any, micro: int, rank: int, world: int, device: torch.device):
        self.source, self.micro, self.rank, self.world, self.device = source, micro, rank, world, device

    def _cut(self, index: int) -> Batch:
        batch = self.source.batch((index * self.world + self.rank) * self.micro, self.micro)
        return tuple(t.pin_memory() for t in batch) if self.device.type == "cuda" else batch

    def from_sample(self, sample: int) -> Iterator[Batch]:
        """Micro-batches, without end, after the run's first `sample` samples, rounded up to whole micro-batches."""
        return self.from_micro_batch(-(-sample // (self.micro * self.world)))

    def from_micro_batch(self, first: int) -> Iterator[Batch]:
        """Micro-batches from index `first` (counted over the run) on, without end."""
        if self.device.type != "cuda":
            index = first
            while True:
                yield self._cut(index)
                index += 1
        with ThreadPoolExecutor(1, "loader", use_device, (self.device,)) as pool:
            index, following = first, pool.submit(self._cut, first)
            while True:
                batch, index = following.result(), index + 1
                following = pool.submit(self._cut, index)
                yield tuple(t.to(self.device, non_blocking=True) for t in batch)

    def held_out(self, batches: int) -> Iterator[Batch]:
        """At most `batches` micro-batches of held-out samples, as many for every rank."""
        for index in range(batches):
            first = index * self.world * self.micro
            if self.source.validation(first + (self.world - 1) * self.micro, self.micro) is None:
                return
            batch = self.source.validation(first + self.rank * self.micro, self.micro)
            yield tuple(t.to(self.device) for t in batch)
