"""The loader that `initialize(training_data=...)` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Sampler


class DeepSpeedDataLoader:
    """Micro-batches of this rank; every pass over the data has an order of its own, the same on all ranks."""

    def __init__(self, dataset: Dataset, batch_size: int, rank: int, world: int, *, collate_fn: Callable | None = None,
                 sampler: Sampler | None = None, shuffle: bool = True, drop_last: bool = False,
                 num_workers: int | None = None, pin_memory: bool = True):  # fmt: skip
        if sampler is None and not isinstance(dataset, IterableDataset):
            sampler = DistributedSampler(dataset, world, rank, shuffle=shuffle, drop_last=drop_last)
        cuda = torch.cuda.is_available()
        self.loader = DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate_fn,
            drop_last=drop_last,
            num_workers=(2 if cuda else 0) if num_workers is None else num_workers,
            pin_memory=pin_memory and cuda,
        )
        self.dataset, self.batch_size, self.data_sampler = dataset, batch_size, sampler
        self.epoch = 0
        self._running: Iterator | None = None

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if hasattr(self.data_sampler, "set_epoch"):
            self.data_sampler.set_epoch(self.epoch)
        self.epoch += 1
        self._running = iter(self.loader)
        return self._running

    def __next__(self) -> Any:
        if self._running is None:
            iter(self)
        return next(self._running)


class RepeatingLoader:
    """A loader that begins again when it is through."""

    def __init__(self, loader: Any):
        self.loader = loader
        self._running = iter(loader)

    def __iter__(self) -> RepeatingLoader:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._running)
        except StopIteration:
            self._running = iter(self.loader)
            return next(self._running)
