"""Layers that know their own initialisation: `reset_parameters` sets everything a module owns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zerokit.model._linear_cross_entropy import linear_cross_entropy


class Linear(nn.Linear):
    """(…, in) → (…, out); weights drawn from a normal distribution of `std`, bias 0."""

    def __init__(self, in_features: int, out_features: int, bias: bool, std: float) -> None:
        self.std = std
        super().__init__(in_features, out_features, bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """Integers (…) → vectors (…, dim); weights drawn from a normal distribution of `std`."""

    def __init__(self, count: int, dim: int, std: float) -> None:
        self.std = std
        super().__init__(count, dim)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


class Head(Linear):
    """Hidden states (B, T, D) → logits (B, T, V), or with targets (B, T) the mean cross-entropy in nats (fp32)."""

    compiles = False  # see the note in `_linear_cross_entropy`

    def __init__(self, dim: int, vocab_size: int, std: float, chunk: int) -> None:
        self.chunk = chunk
        super().__init__(dim, vocab_size, bias=False, std=std)

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        if targets is None:
            return super().forward(hidden)
        return linear_cross_entropy(hidden.flatten(0, -2), self.weight, targets.flatten(), self.chunk)


@dataclass(frozen=True)
class RotaryScaling:
    """Llama 3's stretch of the rotary frequencies to longer contexts (Llama 3.1's published `rope_scaling`)."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int

    def __call__(self, frequencies: Tensor) -> Tensor:
        """Divides low frequencies by `factor`, keeps high ones, blends those in between."""
        turns = self.original_context * frequencies / (2 * math.pi)
        width = self.high_frequency_factor - self.low_frequency_factor
        kept = ((turns - self.low_frequency_factor) / width).clamp(0, 1)
        return frequencies * (kept + (1 - kept) / self.factor)


class Rotary(nn.Module):
    """Table of rotary position embeddings (Su et al. 2021, arXiv 2104.09864), in fp32 whatever the weights' dtype.

    `forward(T)` gives (2, T, 1, head_dim / 2): cosines and sines of the angles of the first T positions; with
    `position_ids` (B, T) those of these, (2, B, T, 1, head_dim / 2).
    """

    def __init__(self, head_dim: int, context: int, theta: float, scaling: RotaryScaling | None) -> None:
        super().__init__()
        self.head_dim, self.context, self.theta, self.scaling = head_dim, context, theta, scaling
        self.register_buffer("table", torch.empty(2, context, 1, head_dim // 2), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        device = self.table.device
        frequencies = self.theta ** -(torch.arange(0, self.head_dim, 2, device=device).float() / self.head_dim)
        if self.scaling is not None:
            frequencies = self.scaling(frequencies)
        angles = torch.arange(self.context, device=device).float()[:, None] * frequencies
        self.table.copy_(torch.stack((angles.cos(), angles.sin()))[:, :, None])

    def forward(self, length: int, position_ids: Tensor | None = None) -> Tensor:
        return self.table[:, :length] if position_ids is None else self.table[:, position_ids]


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turns the pairs (x[i], x[i + head_dim/2]) of x (B, T, heads, head_dim) by the table's angles."""
    cos, sin = table
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
