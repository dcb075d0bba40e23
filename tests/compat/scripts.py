"""What a script written for DeepSpeed does, for tests on several ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import zerokit.compat.deepspeed as deepspeed
from tests.ranks import run_ranks

STAGES = (0, 1, 2, 3)
FORMATS = {"fp32": {}, "bf16": {"bf16": {"enabled": True}}, "fp16": {"fp16": {"enabled": True}}}


class Net(nn.Module):
    """A small model with blocks, a norm and a buffer."""

    def __init__(self, width: int = 12, depth: int = 2):
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1)
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(x)))


def make(stage: int = 2, optimizer: Callable | None = None, model: nn.Module | None = None, **config: Any):
    """The engine of a configuration with four samples per rank in two micro-batches, and what else initialize gives."""
    torch.manual_seed(0)
    model = Net() if model is None else model
    values = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 2,
        "zero_optimization": {"stage": stage},
        "gradient_clipping": 0,
    }
    if optimizer is None:
        values["optimizer"] = config.pop("json_optimizer", {"type": "Adam", "params": {"lr": 0.01}})
    arguments = {key: config.pop(key) for key in ("model_parameters", "lr_scheduler", "training_data") if key in config}
    client = None if optimizer is None else optimizer(model.parameters())
    return deepspeed.initialize(model=model, optimizer=client, config=values | config, **arguments)


def micro_batches(engine, steps: int, count: int = 2):
    """This rank's inputs and targets."""
    generator = torch.Generator().manual_seed(3)
    world, rank = engine.world_size, engine.global_rank
    for index in range(steps * count * world):
        x = torch.randn(2, 12, generator=generator)
        if index % world == rank:
            yield x, x.sum(1, keepdim=True)


def train(engine, steps: int = 2) -> list[float]:
    """DeepSpeed's loop: forward, backward and step for every micro-batch."""
    losses = []
    for x, y in micro_batches(engine, steps):
        loss = (engine(x) - y).square().mean()
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return losses


def digest(engine) -> str:
    """Of all weights."""
    return engine.engine.reader.sha256()


def on_all_stages(function: Callable, world: int, *args: Any) -> list:
    """What `function(stage, *args)` returns at each stage on each rank."""

    def run() -> list:
        return [function(stage, *args) for stage in STAGES]

    return [result for rank in run_ranks(run, world) for result in rank]
