"""One way to train small models in tests, through the engine's public calls and through a plain reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tests.zero.models import MODELS, batches
from zerokit.comm import Communicator
from zerokit.config import registry
from zerokit.config.registry import Choice
from zerokit.zero.engine import Engine
from zerokit.zero.model.partition import find_blocks
from zerokit.zero.numerics import Numerics, ParameterGroups
from zerokit.zero.update.kernel import Group, Now

GROUPS = ParameterGroups((Group(0.1), Group(0.0)), lambda name, parameter: int(parameter.ndim < 2))


@dataclass(frozen=True)
class Case:
    """What a small training depends on."""

    model: str = "plain"
    optimizer: str = "adamw"
    accumulation: int = 1
    clip_norm: float | None = None
    steps: int = 5
    compute: torch.dtype = torch.float32
    master: str = "same"
    accumulate: torch.dtype = torch.float32
    reduce: torch.dtype = torch.float32
    units: tuple[str, ...] = ()
    wrap: Callable | None = None
    prefetch: int = 1
    options: dict = field(default_factory=dict)
    cuda: bool = False


def make_optimizer(name: str, **options: Any):
    """A registered optimizer."""
    return registry.build("optimizer", Choice(name, registry.options_type("optimizer", name)(**options)))


def scalars_of(optimizer, lr: float, step: float, weight_decay: float = 0.0, kept: dict | None = None) -> dict:
    """What the elements of a group share at a step (from 1), as fp32 tensors."""
    momentum = None if optimizer.momentum is None else torch.tensor(optimizer.momentum, dtype=torch.float64)
    lr, step = torch.tensor(lr, dtype=torch.float64), torch.tensor(float(step), dtype=torch.float64)
    now = Now(lr, step, torch.tensor(weight_decay, dtype=torch.float64), momentum, kept or {})
    return {name: value.float() for name, value in optimizer.scalars(now).items()}


def make_engine(case: Case, stage: int, **extra: Any) -> Engine:
    """The engine of a case, its model built on the meta device."""
    with torch.device("meta"):
        model = MODELS[case.model]()
    if case.wrap is not None:
        for index, block in enumerate(find_blocks(model)):
            block.forward = case.wrap(block.forward, index)
    numerics = Numerics(case.compute, case.master, case.accumulate, case.reduce)
    device = torch.device("cuda", torch.cuda.current_device()) if case.cuda else torch.device("cpu")
    values = {
        "stage": stage,
        "comm": Communicator(device),
        "numerics": numerics,
        "groups": GROUPS,
        "accumulation": case.accumulation,
        "clip_norm": case.clip_norm,
        "units": case.units,
        "prefetch": case.prefetch,
    }
    return Engine(model, make_optimizer(case.optimizer, **case.options), **(values | extra))


def train(engine: Engine, case: Case) -> list[float]:
    """Run the case's steps on this rank's micro-batches; the loss of each micro-batch."""
    losses = []
    world, rank = engine.comm.world, engine.comm.rank
    for step in batches(case.steps, case.accumulation * world):
        for micro in range(case.accumulation):
            loss = engine(*(t.to(engine.device) for t in step[micro * world + rank]))
            engine.backward(loss)
            losses.append(loss.item())
        engine.step()
    return losses


def outcome(case: Case, stages: tuple[int, ...] = (0, 1, 2, 3)) -> dict[int, dict]:
    """Digest, losses, norm and weights for each stage, trained one after the other on this rank."""
    result = {}
    for stage in stages:
        engine = make_engine(case, stage)
        losses = train(engine, case)
        weights = {name: value.tolist() for name, value in engine.whole_weights()}
        result[stage] = {
            "sha256": engine.reader.sha256(),
            "losses": losses,
            "norm": float(engine.grad_norm),
            "weights": weights,
        }
    return result


def reference(case: Case, world: int, after_each_micro_batch: bool) -> dict[str, list]:
    """Weights of a plain one-process training that adds gradients in the order of the ranks.

    after_each_micro_batch: sum over ranks first, then over micro-batches (stages 2 and 3); else the other way round.
    """
    model = make_engine(case, 0)  # for the first weights
    with torch.device("cpu"):
        plain = MODELS[case.model]()
    named = dict(plain.named_parameters())
    for name, value in model.whole_weights():
        named[name].data.copy_(value)
    optimizer = make_optimizer(case.optimizer, **case.options)
    trained = {n: p for n, p in named.items() if p.requires_grad}
    states = {n: tuple(torch.zeros_like(p) for _ in optimizer.states) for n, p in trained.items()}
    for number, step in enumerate(batches(case.steps, case.accumulation * world)):
        computed = [_gradients(plain, trained, batch, case.accumulation * world) for batch in step]
        gradients = [of_batch for of_batch, _ in computed]
        ranks, micros = range(world), range(case.accumulation)
        order = [[m * world + r for r in ranks] for m in micros] if after_each_micro_batch else [
            [m * world + r for m in micros] for r in ranks]  # fmt: skip
        totals = {n: _sum([_sum([gradients[i][n] for i in inner]) for inner in order]) for n in trained}
        if case.clip_norm is not None:
            norm = torch.stack([g.double().norm() for g in totals.values()]).norm()
            if norm > case.clip_norm:
                totals = {n: g * (case.clip_norm / norm).float() for n, g in totals.items()}
        for name, parameter in trained.items():
            total = totals[name]
            if all(name in of_batch[1] for of_batch in computed):
                continue  # unused
            decay = GROUPS.groups[GROUPS.of(name, parameter)].weight_decay
            scalars = scalars_of(optimizer, optimizer.lr, number + 1, decay)
            parameter.data, states[name] = optimizer.update(parameter.data, total, states[name], scalars)
    return {name: parameter.tolist() for name, parameter in named.items()}


def _gradients(model: nn.Module, trained: dict, batch: tuple, share: int) -> tuple[dict[str, torch.Tensor], set[str]]:
    """Gradients of a micro-batch, and the names of the parameters that it did not use."""
    model.zero_grad()
    model(*batch).backward(torch.tensor(1.0 / share))
    unused = {name for name, p in trained.items() if p.grad is None}
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in trained.items()}, unused


def _sum(values: list[torch.Tensor]) -> torch.Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
