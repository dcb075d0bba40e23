"""Makes the samples of `synthetic` once, from the seed, and keeps them in memory."""

from __future__ import annotations

import ctypes
import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from zerokit.config.data_info import DataInfo
from zerokit.data._source import Batch, Source, TokenSource, cross_entropy


def progressions(options, rows: int, generator: torch.Generator) -> Tensor:
    """(rows, seq_len + 1) int64: start + step · t modulo the vocabulary, a share `noise` of it random."""
    size = (rows, options.seq_len + 1)
    start = torch.randint(options.vocab_size, (rows, 1), generator=generator)
    step = torch.randint(1, max(2, min(options.vocab_size, 8)), (rows, 1), generator=generator)
    tokens = (start + step * torch.arange(size[1])) % options.vocab_size
    noisy = torch.rand(size, generator=generator) < options.noise
    return torch.where(noisy, torch.randint(options.vocab_size, size, generator=generator), tokens)


class ProgressionSource(TokenSource):
    """Rows of tokens, one row per sample."""

    def _cut(self, tokens: Tensor, split: str) -> Tensor:
        return tokens

    def decode(self, tokens: list[int]) -> str:
        """Numbers, for these tokens are no text."""
        return " ".join(map(str, tokens))


class VectorSource(Source):
    """Pairs of an input vector and a target: y = W x + noise, or the class argmax(W x + noise)."""

    def __init__(self, info: DataInfo, inputs: Tensor, targets: Tensor, train: int, seed: int) -> None:
        super().__init__(seed)
        self.info = info
        self._inputs, self._targets, self._samples = inputs, targets, train

    def __len__(self) -> int:
        return self._samples

    def _train(self, indices: Tensor) -> Batch:
        return self._inputs[indices], self._targets[indices]

    def validation(self, start: int, count: int) -> Batch | None:
        first = self._samples + start
        if first + count > len(self._inputs):
            return None
        return self._inputs[first : first + count], self._targets[first : first + count]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of (B, out), or cross-entropy of logits (B, classes) in nats."""
        if self.info.task == "regression":
            return F.mse_loss(outputs.float(), targets.float())
        return cross_entropy(outputs, targets)


def linear_map(options, rows: int, generator: torch.Generator) -> Batch:
    """Inputs (rows, in) and outputs (rows, out) of one random linear map, noise added."""
    weight = torch.randn(options.out_features, options.in_features, generator=generator)
    inputs = torch.randn(rows, options.in_features, generator=generator)
    outputs = inputs @ weight.T / options.in_features**0.5
    return inputs, outputs + options.noise * torch.randn(outputs.shape, generator=generator)


def digest(*tensors: Tensor) -> str:
    """sha256 of the tensors' values."""
    sha256 = hashlib.sha256()
    for tensor in tensors:
        tensor = tensor.contiguous()
        sha256.update(ctypes.string_at(tensor.data_ptr(), tensor.nbytes))  # works without numpy
    return sha256.hexdigest()


def build(options, seed: int) -> Source:
    """Source of one of the three tasks."""
    generator = torch.Generator().manual_seed(seed)
    rows = options.samples + options.held_out
    if options.task == "tokens":
        tokens = progressions(options, rows, generator)
        info = _info(options, digest(tokens), seq_len=options.seq_len, vocab_size=options.vocab_size)
        return ProgressionSource(info, tokens[: options.samples], tokens[options.samples :], seed)
    inputs, targets = linear_map(options, rows, generator)
    if options.task == "classification":
        targets = targets.argmax(dim=-1)
    info = _info(options, digest(inputs, targets), in_features=options.in_features, out_features=options.out_features)
    return VectorSource(info, inputs, targets, options.samples, seed)


def _info(options, sha256: str, **sizes: int) -> DataInfo:
    unset = dict.fromkeys(("seq_len", "vocab_size", "in_features", "out_features"))
    return DataInfo(
        task=options.task,
        sha256=sha256,
        description=f"synthetic {options.task}: {options.samples} samples to train on, {options.held_out} held out",
        bytes_per_token=None,
        **(unset | sizes),
    )
