"""Small models with the shapes and habits that make partitioning hard."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY = 23


class Block(nn.Module):
    """Residual feed-forward block; widths need not divide anything."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Language(nn.Module):
    """Embedding, blocks of different widths, norm and head; returns the loss."""

    def __init__(self, dim: int = 12, depth: int = 3, tied: bool = False):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, dim)
        self.blocks = nn.ModuleList(Block(dim, 2 * dim + i) for i in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def hidden(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        logits = self.head(self.norm(self.hidden(tokens)))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class Twice(Language):
    """Runs its blocks twice in one forward pass."""

    def hidden(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in (*self.blocks, *self.blocks):
            x = block(x)
        return x


class Unused(Language):
    """Has a block that never runs, and one parameter in a running block that is never used."""

    def __init__(self):
        super().__init__()
        self.blocks[1].spare = nn.Linear(3, 5)
        self.idle = nn.ModuleList([Block(12, 7)])


class Frozen(Language):
    """Trains half of one block and all of another; the rest is frozen, the first block entirely."""

    def __init__(self):
        super().__init__()
        self.embed.requires_grad_(False)
        self.blocks[0].requires_grad_(False)
        self.blocks[1].up.requires_grad_(False)


class Outer(nn.Module):
    """A unit around another unit."""

    def __init__(self, dim: int):
        super().__init__()
        self.before = nn.Linear(dim, dim)
        self.inner = Block(dim, dim + 1)
        self.after = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.after(self.inner(self.before(x)))


class Nested(Language):
    """Blocks inside blocks."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Outer(12) for _ in range(2))

    def units(self) -> list[nn.Module]:
        return [*self.blocks, *(block.inner for block in self.blocks)]


class Table(Language):
    """Its embedding is a unit of its own, with a row for padding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 12, padding_idx=3)

    def units(self) -> list[nn.Module]:
        return [*self.blocks, self.embed]


MODELS = {
    "plain": Language,
    "tied": lambda: Language(tied=True),
    "twice": Twice,
    "unused": Unused,
    "frozen": Frozen,
    "nested": Nested,
    "table": Table,
}


def batches(steps: int, count: int, micro: int = 2, length: int = 5) -> list[list[tuple[Tensor, Tensor]]]:
    """`count` micro-batches for each step, always the same."""
    generator = torch.Generator().manual_seed(5)
    made = []
    for _ in range(steps):
        tokens = torch.randint(0, VOCABULARY, (count, micro, 1), generator=generator)
        for _ in range(length):  # every token follows from the one before, so that there is something to learn
            tokens = torch.cat([tokens, (tokens[..., -1:] * 2 + 1) % VOCABULARY], dim=-1)
        made.append([(row[:, :-1], row[:, 1:]) for row in tokens])
    return made
