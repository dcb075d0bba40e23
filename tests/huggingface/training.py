"""A few steps of plain gradient descent, by an engine on every rank and by PyTorch alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zerokit.config import registry
from zerokit.train.initialize import initialize
from zerokit.zero.model.partition import find_blocks

for group in ("optimizer", "precision", "checkpointing"):  # imported before the ranks are forked
    _ = registry.names(group)
LR, STEPS = 0.2, 2
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-3}
"""Largest difference of the weights, relative to the way that training has taken them."""

Batch = Callable[[int], dict[str, Any]]
Weights = dict[str, Tensor]


class Combination(NamedTuple):
    """How an engine is set up."""

    stage: int
    precision: str
    checkpointing: str


def make_engine(model: nn.Module, how: Combination) -> Any:
    """The engine of a model, in which every block is a unit."""
    config = {
        "zero": {"stage": how.stage, "min_unit": 0},
        "precision": how.precision,
        "checkpointing": how.checkpointing,
        "optimizer": {"name": "sgd", "lr": LR, "momentum": 0.0},
    }
    return initialize(model, config)


def train(engine: Any, batch: Batch) -> Weights:
    """The weights after the steps, each of one batch per rank."""
    for step in range(STEPS):
        engine.backward(engine(**batch(step * engine.comm.world + engine.comm.rank))["loss"])
        engine.step()
    return dict(engine.full_state_dict())


def masters(model: nn.Module) -> Weights:
    """The weights of a plain model."""
    return {name: parameter.detach().float().clone() for name, parameter in model.named_parameters()}


def train_plainly(model: nn.Module, batch: Batch, precision: str, world: int) -> Weights:
    """The same without zerokit: fp32 weights, of which the model computes with a copy in `precision`, as its blocks do
    with their inputs. Frozen ones have no others."""
    dtype, weights = FORMATS[precision], masters(model)
    for block in find_blocks(model):
        block.register_forward_pre_hook(lambda _, args, kwargs: _cast((args, kwargs), dtype), with_kwargs=True)
    weights |= {name: weights[name].to(dtype).float() for name, p in model.named_parameters() if not p.requires_grad}
    for step in range(STEPS):
        for name, parameter in model.named_parameters():
            parameter.data = weights[name].to(dtype)
        for rank in range(world):
            for name, gradient in _gradients(model, _cast(batch(step * world + rank), dtype)).items():
                weights[name] = weights[name] - LR / world * gradient
    return weights


def _gradients(model: nn.Module, batch: dict[str, Any]) -> Weights:
    model.zero_grad()
    model(**batch)["loss"].backward()
    return {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {key: _cast(item, dtype) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_cast(item, dtype) for item in value)
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def difference(got: Weights, wanted: Weights, start: Weights) -> float:
    """Largest difference of a weight's norm, relative to the way of all weights from `start` to `wanted`."""
    way = torch.stack([(wanted[name] - start[name]).norm() for name in start]).norm()
    return max(float((got[name] - wanted[name]).norm() / way) for name in start)


def references(make: Callable[[], nn.Module], batch: Batch, precisions: list[str]) -> dict[str, Weights]:
    """What `train_plainly` gives for each precision; the ranks divide the work."""
    world, rank = dist.get_world_size(), dist.get_rank()
    mine = {p: train_plainly(make(), batch, p, world) for place, p in enumerate(precisions) if place % world == rank}
    every: list[Any] = [None] * world
    dist.all_gather_object(every, mine)
    return {precision: weights for part in every for precision, weights in part.items()}
