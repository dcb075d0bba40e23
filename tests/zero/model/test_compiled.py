"""Compiled blocks stay one graph each under an engine's hooks, whatever their modules are, and compute the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import zerokit
from tests.ranks import run_ranks
from zerokit.config.data_info import DataInfo
from zerokit.model._families import build_llama
from zerokit.model.llama import LlamaOptions

MODULES = {
    "linear": lambda: nn.Linear(16, 16),
    "batchnorm": lambda: nn.BatchNorm1d(16),
    "bilinear": lambda: nn.Bilinear(16, 16, 16),
    "parametrization": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)),
    "spectral_hook": lambda: nn.utils.spectral_norm(nn.Linear(16, 16)),
}


class Block(nn.Module):
    """A module and, where asked, a buffer in fp32 that would lengthen what meets it."""

    def __init__(self, kind: str, buffer: bool):
        super().__init__()
        self.norm, self.out = nn.LayerNorm(16), nn.Linear(16, 16)
        self.inner = MODULES[kind]()
        self.register_buffer("scale", torch.full((16,), 1.5) if buffer else None)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 16) → (N, 16)."""
        h = self.norm(x)
        h = h if self.scale is None else h * self.scale
        h = self.inner(h, h) if isinstance(self.inner, nn.Bilinear) else self.inner(h)
        return x + self.out(torch.relu(h))


def trained(kind: str, buffer: bool, way: str) -> tuple[list[float], int, dict]:
    """Losses, compiled graphs and breaks of two steps with three blocks compiled in one way."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    counters.clear()
    model = nn.Sequential(*(Block(kind, buffer) for _ in range(3)), nn.Linear(16, 4))
    for block in model[:3] if way == "forward before" else ():
        block.forward = torch.compile(block.forward, backend="eager", fullgraph=True)
    config = {
        "zero": {"stage": 3, "units": ["[012]"]},
        "precision": {"name": "bf16"},
        "optimizer": {"name": "adamw"},
        "launch": {"device": "cpu"},
    }
    engine = zerokit.initialize(model, config)
    for block in model[:3] if way == "block after" else ():
        block.compile(backend="eager")
    losses = []
    for step in range(2):
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(step))
        loss = engine(x).float().square().mean()
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return losses, counters["stats"]["unique_graphs"], dict(counters["graph_break"])


def all_ways(kind: str, buffer: bool) -> dict:
    """By the way to compile, `trained`."""
    return {way: trained(kind, buffer, way) for way in ("eager", "forward before", "block after")}


@pytest.mark.parametrize("buffer", [False, True])
@pytest.mark.parametrize("kind", MODULES)
def test_a_compiled_block_is_one_graph(kind, buffer):
    for of_rank in run_ranks(all_ways, 2, kind, buffer):
        eager, graphs, _ = of_rank.pop("eager")
        assert graphs == 0
        for losses, graphs, breaks in of_rank.values():
            assert losses == pytest.approx(eager, rel=1e-2)
            assert breaks == {}
            assert 1 <= graphs <= 3  # the first block's input needs no gradient; statistics may be traced once more


def seen_by_blocks() -> set[torch.dtype]:
    """Formats of the rotary tables that a decoder's blocks get in bf16."""
    config = {
        "zero": {"stage": 3, "min_unit": 1},
        "precision": {"name": "bf16"},
        "optimizer": {"name": "adamw"},
        "launch": {"device": "cpu"},
    }
    info = DataInfo("tokens", 8, 64, None, None, "", "test", None)
    model = build_llama(LlamaOptions(dim=32, layers=2, heads=2, kv_heads=2, hidden=64), info)
    engine = zerokit.initialize(model, config)
    found = set()
    for block in engine.blocks:
        block.register_forward_pre_hook(lambda _, args: found.add(args[1].dtype))
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    engine(tokens, targets=tokens)
    return found


def test_decoders_keep_the_rotary_table_in_fp32():
    assert run_ranks(seen_by_blocks, 2) == [{torch.float32}] * 2
