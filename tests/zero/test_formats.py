"""Formats that meet in a model: fp32 buffers and statistics beside weights and activations of 16 bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.ranks import run_ranks
from tests.zero.training import make_optimizer
from zerokit.zero.engine import Engine
from zerokit.zero.numerics import Numerics

DIM = 8


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        rows = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
        self.body = nn.Sequential(*rows, nn.BatchNorm1d(4 * DIM * DIM), nn.Linear(4 * DIM * DIM, DIM))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.view(-1, 1, DIM, DIM))


class Positions(nn.Module):
    """An fp32 table before linear layers of the root, and in a block."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.cos(torch.arange(float(DIM))))
            self.first, self.second = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

        def forward(self, x: Tensor, *, scale: Tensor) -> Tensor:
            return self.second(torch.tanh(self.first(x) * scale) + self.table)

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.sin(torch.arange(float(DIM))))
        self.stem = nn.Linear(DIM, DIM)
        self.blocks = nn.ModuleList(self.Block() for _ in range(3))
        self.head = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.view(-1, DIM) + self.table)
        for block in self.blocks:
            x = block(x.float() + 1, scale=self.table)
        return self.head(x + self.table)


MODELS = {"convolutional": Convolutional, "positions": Positions}


def batch(step: int, rank: int) -> Tensor:
    return torch.randn(4, DIM * DIM, generator=torch.Generator().manual_seed(10 * step + rank))


def trained(name: str, stage: int, compute: torch.dtype) -> tuple[dict, list[str]]:
    torch.manual_seed(0)
    numerics = Numerics(compute, "separate", torch.float32, torch.float32)
    optimizer = make_optimizer("sgd", lr=0.01, momentum=0.0)
    engine = Engine(MODELS[name](), optimizer, stage=stage, numerics=numerics)
    for step in range(3):
        engine.backward(engine(batch(step, engine.comm.rank)).float().square().mean())
        engine.step()
    engine.module.eval()
    with torch.no_grad():
        assert engine(batch(9, 0)).dtype == compute
    formats = [str(buffer.dtype) for buffer in engine.module.buffers() if buffer.is_floating_point()]
    return {n: v.tolist() for n, v in engine.full_state_dict().items()}, formats


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float16])
def test_statistics_and_buffers_stay_fp32_and_meet_16_bits(name, stage, compute):
    torch.manual_seed(0)
    expected = MODELS[name]()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.01)
    for step in range(3):
        for rank in range(2):
            (expected(batch(step, rank)).square().mean() / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    weights, formats = run_ranks(trained, 2, name, stage, compute)[0]
    assert set(formats) == {"torch.float32"}
    torch.manual_seed(0)
    first = dict(MODELS[name]().named_parameters())
    moved = torch.cat([(value - first[key]).flatten() for key, value in expected.named_parameters()]).detach()
    found = torch.cat([(torch.tensor(weights[key]) - first[key]).flatten() for key in first]).detach()
    assert (found - moved).norm() < 0.1 * moved.norm()  # 8 bits, and batches of four to normalise
