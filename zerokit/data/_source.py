"""The interface of every data source, and the two kinds it comes in: windows of tokens and rows of vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from zerokit.config.data_info import IGNORED, DataInfo
from zerokit.config.errors import ConfigError

Batch = tuple[Tensor, Tensor]


def mixed(*seeds: int) -> int:
    """One seed of several, another for each combination (a linear congruential step for each; Knuth, MMIX)."""
    found = 0
    for seed in seeds:
        found = (found * 6364136223846793005 + seed + 1442695040888963407) % 2**63
    return found


def permutation(length: int, *seeds: int) -> Tensor:
    """The order of `length` samples that `seeds` stand for, the same on every machine."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(mixed(*seeds)))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits (N, V) with targets (N,) but those `IGNORED`, 0 if all are: 0-dim, fp32."""
    total = F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


class Source(ABC):
    """Samples with a global index that counts on over all epochs.

    Every rank may ask for any range: what comes back depends on the seed and the index alone.
    """

    info: DataInfo

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._order: tuple[int, Tensor] | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Samples in one epoch of the training split."""

    @abstractmethod
    def _train(self, indices: Tensor) -> Batch:
        """Training samples by their place in the data."""

    @abstractmethod
    def validation(self, start: int, count: int) -> Batch | None:
        """Held-out samples `start … start+count-1` in a fixed order that ignores the seed; None past the end."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a model that returns outputs over the targets that are not `IGNORED`: 0-dim, fp32."""

    def batch(self, start: int, count: int) -> Batch:
        """Inputs and targets (CPU tensors) of the samples with global indices `start … start+count-1`."""
        parts = []
        while count > 0:
            epoch, place = divmod(start, len(self))
            taken = min(count, len(self) - place)
            parts.append(self._epoch_order(epoch)[place : place + taken])
            start, count = start + taken, count - taken
        return self._train(torch.cat(parts))

    def _epoch_order(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, permutation(len(self), self.seed, epoch))
        return self._order[1]


class TokenSource(Source):
    """Windows of `seq_len` + 1 tokens from two long rows of tokens, training and held-out.

    Windows overlap by one token, so that every token but the first is a target once an epoch.
    """

    def __init__(self, info: DataInfo, train: Tensor, held_out: Tensor, seed: int) -> None:
        super().__init__(seed)
        self.info = info
        self._windows = self._cut(train, "training")
        self._held_out = self._cut(held_out, "held-out")
        # Shuffled so that the first few windows already stand for all held-out files.
        self._held_out_order = permutation(len(self._held_out), 0)

    def _cut(self, tokens: Tensor, split: str) -> Tensor:
        size = self.info.seq_len + 1
        if len(tokens) < size:
            raise ConfigError(
                f"data: expected at least {size} {split} tokens for data.seq_len={self.info.seq_len}, got "
                f"{len(tokens)}; lower data.seq_len or give more text"
            )
        return tokens.unfold(0, size, size - 1)

    def __len__(self) -> int:
        return len(self._windows)

    def _train(self, indices: Tensor) -> Batch:
        return self._split(self._windows[indices])

    def validation(self, start: int, count: int) -> Batch | None:
        if start + count > len(self._held_out):
            return None
        return self._split(self._held_out[self._held_out_order[start : start + count]])

    @staticmethod
    def _split(windows: Tensor) -> Batch:
        windows = windows.long()
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of logits (B, T, V) with tokens (B, T), in nats per token."""
        return cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def prompt(self, text: str) -> list[int]:
        """The tokens that a model is to continue `text` from."""
        return list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        """Text of `tokens`; bytes that are no UTF-8 become U+FFFD."""
        return bytes(tokens).decode("utf-8", errors="replace")
