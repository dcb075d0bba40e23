"""Micro-batches of one rank, copied to its device ahead of their use."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from zerokit.comm.stream import use_device
from zerokit.config.errors import ConfigError

Inputs = Tensor | dict[str, Tensor]
Batch = tuple[Inputs, Tensor]


def divided(batch: Mapping[str, Tensor] | tuple[Tensor, Tensor]) -> Batch:
    """What a model gets, and its targets: of a pair as it is, of a mapping all but `labels`, and these.

    Raises:
        ConfigError: a mapping has no labels.
    """
    if not isinstance(batch, Mapping):
        return batch
    inputs = dict(batch)
    targets = inputs.pop("labels", None)
    if targets is None:
        raise ConfigError(f"data: a batch has no 'labels', which say what is learned; it has {', '.join(batch)}.")
    return inputs, targets


class Loader:
    """The micro-batches of `rank`, in order. Sample i of the run is the same for every number of ranks.

    A source gives pairs or mappings of tensors; either comes out as inputs and targets (`divided`).
    Micro-batch m of step s on rank r holds the samples from `(s * accumulation * world + m * world + r) * micro` on.
    On a GPU the next micro-batch is cut and pinned by a thread while the current one is used.
    """

    def __init__(self, source: Any, micro: int, rank: int, world: int, device: torch.device):
        self.source, self.micro, self.rank, self.world, self.device = source, micro, rank, world, device

    def _cut(self, index: int) -> Batch:
        batch = divided(self.source.batch((index * self.world + self.rank) * self.micro, self.micro))
        return tree_map(lambda t: t.pin_memory(), batch) if self.device.type == "cuda" else batch

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
                yield tree_map(lambda t: t.to(self.device, non_blocking=True), batch)

    def held_out(self, samples: int) -> Iterator[tuple[Batch, bool]]:
        """Micro-batches of the first `samples` held-out samples, or of all if they are fewer, and whether they count.

        Every rank gets as many: at stage 3 all must run the model together. The last ones are smaller where the samples
        do not fill them; a rank for which none is left gets one that another has, which does not count.
        """
        total, together = self._held_out_samples(samples), self.world * self.micro
        for first in range(0, total, together):
            count = min(together, total - first)
            start, end = (first + count * rank // self.world for rank in (self.rank, self.rank + 1))
            batch = divided(self.source.validation(start, max(1, end - start)))
            yield tree_map(lambda t: t.to(self.device), batch), start < end

    def _held_out_samples(self, most: int) -> int:
        """How many held-out samples there are, at most `most`."""
        return bisect_left(range(most), True, key=lambda place: self.source.validation(place, 1) is None)
