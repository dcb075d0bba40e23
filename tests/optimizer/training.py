"""Small trainings under one optimizer, by the engine and by plain PyTorch with a given way to step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.zero.models import MODELS, batches
from zerokit.comm import Communicator
from zerokit.config import registry
from zerokit.config.registry import Choice
from zerokit.train.groups import parameter_groups
from zerokit.zero.engine import Engine, Numerics


@dataclass(frozen=True)
class Run:
    """An optimizer with its options, and what it trains."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    model: str = "plain"
    steps: int = 6
    numerics: Numerics = field(default_factory=Numerics)
    clip_norm: float | None = None


def engine_of(run: Run, stage: int = 0, **extra: Any) -> Engine:
    """The engine with the hyperparameter groups that the command line would give it."""
    choice = Choice(run.name, registry.options_type("optimizer", run.name)(**run.options))
    optimizer = registry.build("optimizer", choice)
    with torch.device("meta"):
        model = MODELS[run.model]()
    values = {
        "stage": stage,
        "comm": Communicator(torch.device("cpu")),
        "numerics": run.numerics,
        "groups": parameter_groups(choice, optimizer, model),
        "clip_norm": run.clip_norm,
    }
    return Engine(model, optimizer, **(values | extra))


def train(engine: Engine, steps: int, first: int = 0) -> None:
    """Steps `first` to `first + steps` on this rank's share of the data."""
    world, rank = engine.comm.world, engine.comm.rank
    for step in batches(first + steps, world)[first:]:
        engine.backward(engine(*(t.to(engine.device) for t in step[rank])))
        engine.step()


def weights(engine: Engine) -> dict[str, Tensor]:
    """Whole fp32 weights."""
    return {name: value.clone() for name, value in engine.whole_weights()}


def plain(run: Run, steppers: Callable[[dict[str, nn.Parameter]], Callable[[int], None]]) -> tuple[dict, dict]:
    """Weights before and after the same training in plain PyTorch on one rank.

    steppers: the parameters by name → what steps them, given the number of the step from 1.
    """
    model = MODELS[run.model]()
    start = weights(engine_of(run))
    named = dict(model.named_parameters())
    for name, parameter in named.items():
        parameter.data.copy_(start[name])
    step = steppers(named)
    for number, batch in enumerate(batches(run.steps, 1)):
        model.zero_grad()
        model(*batch[0]).backward()
        step(number + 1)
    return start, {name: p.detach() for name, p in named.items()}
