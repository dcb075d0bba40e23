"""The tokens of a run: the same for every system."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.cases import Case

SOURCES = ("synthetic", "stdlib")


class Batches:
    """Step by step the inputs and targets of one rank, each (accumulation, micro, seq_len) int64 on the device."""

    def __init__(self, case: Case, rank: int, world: int, device: torch.device, name: str, seed: int) -> None:
        self.case, self.rank, self.world, self.device, self.seed = case, rank, world, device, seed
        self._source = None
        if name == "stdlib":
            from zerokit.data._corpus import source_of, stdlib_corpus

            self._source = source_of(stdlib_corpus(5), name, case.seq_len, seed)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of optimizer step `step`, from 0."""
        parts = [self._micro(step * self.case.accumulation + m) for m in range(self.case.accumulation)]
        inputs, targets = (torch.stack(part).to(self.device) for part in zip(*parts, strict=True))
        return inputs, targets

    def _micro(self, index: int) -> tuple[Tensor, Tensor]:
        place = index * self.world + self.rank
        if self._source is not None:
            spread = max(1, self.case.vocab_size // self._source.info.vocab_size)  # bytes all over the vocabulary
            inputs, targets = self._source.batch(place * self.case.micro, self.case.micro)
            return inputs * spread, targets * spread
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + place)
        shape = (self.case.micro, self.case.seq_len + 1)
        windows = torch.randint(self.case.vocab_size, shape, generator=generator)
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
