"""A language model of one's own on zerokit's command line, with checked options and `help`.

python own_model.py model=own model.layers=4 zero=stage3
python own_model.py help model=own
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import zerokit


@dataclass
class Options:
    width: int = 64
    """Width of the hidden states."""
    layers: int = 2
    """Number of blocks."""


class Block(nn.Module):
    """Hidden states (B, T, D) → the same shape: each token sees those before it through a gated recurrent unit."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), nn.GRU(width, width, batch_first=True)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.mix(self.norm(hidden))[0]


class Model(nn.Module):
    """Tokens (B, T) → logits (B, T, V); the loss is that of the data."""

    def __init__(self, vocabulary: int, options: Options):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, options.width)
        self.blocks = nn.ModuleList(Block(options.width) for _ in range(options.layers))  # gathered one at a time
        self.head = nn.Linear(options.width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


@zerokit.register("model", "own", Options)
def build(options: Options, data) -> nn.Module:
    """The model for these data."""
    torch.manual_seed(0)
    return Model(data.vocab_size, options)


zerokit.main()
