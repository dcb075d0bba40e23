"""A torch optimizer as zerokit's: each of its parameter groups becomes a choice of the group `optimizer`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from zerokit.config import registry
from zerokit.config.errors import ConfigError
from zerokit.config.registry import Choice
from zerokit.zero.numerics import ParameterGroups
from zerokit.zero.update.kernel import Group

PAIR = ("beta1", "beta2")
SPEED = {"foreach", "fused", "capturable", "differentiable"}
"""Arguments of torch.optim that choose a kernel; here there is one."""


@dataclass(frozen=True)
class Own:
    """zerokit's optimizer for a class of torch.optim.

    options: from the class's hyperparameters to zerokit's (two for betas). plain: values of others that it stands for.
    """

    name: str
    options: Mapping[str, Any]
    plain: Mapping[str, Any] = field(default_factory=dict)


ADAM = {"lr": "lr", "betas": PAIR, "eps": "eps", "weight_decay": "weight_decay"}
OWN = {
    "Adam": Own("adam", ADAM, {"amsgrad": False, "decoupled_weight_decay": False}),
    "AdamW": Own("adamw", ADAM, {"amsgrad": False, "decoupled_weight_decay": True}),
    "SGD": Own("sgd", {key: key for key in ("lr", "momentum", "nesterov", "weight_decay")}, {"dampening": 0}),
    "Adagrad": Own(
        "adagrad",
        {**{key: key for key in ("lr", "lr_decay", "eps", "weight_decay")}, "initial_accumulator_value": "initial"},
    ),
}
INSTEAD = {
    "LBFGS": "it evaluates the loss several times in a step; use torch.optim.AdamW",
    "SparseAdam": "gradients are dense here; use torch.optim.Adam",
    "Adafactor": "it factors whole matrices; leave it out and choose Adafactor in the configuration",
    "Muon": "it works on whole matrices; leave it out and choose Muon in the configuration",
}
"""Classes of torch.optim that cannot work on shards, and what to do."""


class Declared(torch.optim.Optimizer):
    """An optimizer that only zerokit has, with the constructor of DeepSpeed's class of the same purpose."""

    def __init__(self, params: Any, name: str, defaults: dict[str, Any]):
        super().__init__(params, defaults)
        self.name = name

    def step(self, closure: Any = None) -> None:
        """Never called: the engine takes the parameter groups over."""
        raise RuntimeError(f"This {self.name} is a description: hand it to initialize(optimizer=...).")


def choices(optimizer: torch.optim.Optimizer, untested: bool = False) -> list[Choice]:
    """The choice of zerokit's optimizer for each parameter group.

    untested: whether a class that is not known is tried out: it may run on shards if it moves each element on its own.

    Raises:
        ConfigError: the optimizer cannot work on shards, naming it and the alternative.
    """
    if any(float(state.get("step", 1)) > 0 for state in optimizer.state.values() if state):
        raise ConfigError(
            f"optimizer={type(optimizer).__name__} has taken steps already; give initialize() a new one, and load a "
            "state that an engine has saved."
        )
    return [_choice(optimizer, group, untested) for group in optimizer.param_groups]


def _choice(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], untested: bool) -> Choice:
    cls = type(optimizer)
    if isinstance(optimizer, Declared):
        keys = {"betas": PAIR}
        values = {key: value for key, value in group.items() if key in optimizer.defaults}
        return make_choice(optimizer.name, _renamed(values, {key: keys.get(key, key) for key in values}))
    name = cls.__name__
    known = cls is getattr(torch.optim, name, None)
    if not known and not untested:
        raise ConfigError(
            f"optimizer={cls.__module__}.{name}: nothing says whether it can work on shards. Use a class of "
            "torch.optim or zerokit.compat.deepspeed.ops or register a formula: @zerokit.register('optimizer', NAME)."
        )
    if known and name in INSTEAD:
        raise ConfigError(f"optimizer=torch.optim.{name} cannot work on shards: {INSTEAD[name]}.")
    if group.get("maximize"):
        raise ConfigError(
            f"optimizer=torch.optim.{name}: maximize=True is not there; give backward() the negative loss."
        )
    values = {key: value for key, value in group.items() if key in inspect.signature(cls).parameters} | {
        key: group[key] for key in ("decoupled_weight_decay",) if key in group
    }
    values = {key: value for key, value in values.items() if key not in SPEED | {"params", "maximize"}}
    own = OWN.get(name) if known else None
    if own is not None:
        odd = {key: values[key] for key in values if key not in own.options and values[key] != own.plain.get(key)}
        if not odd:
            return make_choice(own.name, _renamed(values, own.options))
        if name in ("SGD", "Adagrad"):
            told = ", ".join(f"{key}={value}" for key, value in odd.items())
            raise ConfigError(f"optimizer=torch.optim.{name}: {told} is not there; leave it out.")
    values.pop("decoupled_weight_decay", None)
    shared = {key: float(values.pop(key)) for key in ("lr", "weight_decay") if key in values}
    return make_choice("torch", {"type": name if known else cls, "params": values, **shared})


def _renamed(values: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, target in names.items():
        if isinstance(target, tuple):
            options.update(zip(target, map(float, values[key]), strict=True))
        elif key in values:
            options[target] = float(values[key]) if isinstance(values[key], torch.Tensor) else values[key]
    return options


def make_choice(name: str, options: Mapping[str, Any]) -> Choice:
    """A choice of the group `optimizer` in which every parameter of a group decays, as its script says."""
    return Choice(name, registry.options_type("optimizer", name)(**{**options, "decay_norms_and_biases": True}))


def changed(choice: Choice, group: Mapping[str, Any]) -> Choice:
    """A choice with the values that a parameter group has of its own."""
    options = {}
    for key, value in group.items():
        if key == "betas":
            options.update(zip(PAIR, value, strict=True))
        elif hasattr(choice.options, key) and key != "groups":
            options[key] = value
    return Choice(choice.name, replace(choice.options, **options)) if options else choice


@dataclass(frozen=True)
class Division:
    """A model's parameters by hyperparameters.

    groups: for the engine; origin: the optimizer's parameter group of each; ratio: its learning rate over that one's.
    left: names of parameters that are in no group and were frozen.
    """

    groups: ParameterGroups
    origin: list[int]
    ratio: list[float]
    left: list[str] = field(default_factory=list)

    def told(self) -> str:
        """A line for people on what is left."""
        names = ", ".join(self.left[:3]) + (", …" if len(self.left) > 3 else "")
        return f"{len(self.left)} parameters are in no group of the optimizer and stay as they are: {names}."


def divide(model: nn.Module, groups: Sequence[tuple[Sequence[nn.Parameter], Choice]]) -> Division:
    """The engine's groups for parameter groups (parameters, choice). Parameters in none of them are frozen.

    Raises:
        ConfigError: a parameter is in two groups, or not in the model.
    """
    home: dict[nn.Parameter, int] = {}
    for index, (parameters, _) in enumerate(groups):
        for parameter in parameters:
            if parameter in home:
                raise ConfigError(f"A parameter of shape {tuple(parameter.shape)} is in two groups of the optimizer.")
            home[parameter] = index
    named = {parameter: name for name, parameter in model.named_parameters()}
    if strangers := [p for p in home if p not in named]:
        raise ConfigError(
            f"The optimizer has {len(strangers)} parameters that are not the model's (the first has shape "
            f"{tuple(strangers[0].shape)}); make it from the parameters of the model that initialize() gets."
        )
    left = [name for p, name in named.items() if p.requires_grad and p not in home]
    for name in left:
        model.get_parameter(name).requires_grad_(False)
    return replace(_division(groups, home, named), left=left)


def _division(groups: Sequence, home: Mapping[nn.Parameter, int], named: Mapping[nn.Parameter, str]) -> Division:
    bases = [registry.build("optimizer", choice) for _, choice in groups]
    made: dict[tuple, Group] = {}
    places: dict[str, tuple] = {}
    for parameter, index in home.items():
        base, name = bases[index], named[parameter]
        rule = base.rule(name, parameter.ndim)
        places[name] = (index, rule is not base)
        made.setdefault(places[name], Group(base.options.weight_decay, 1.0, rule))
    order = sorted(made)
    ratio = [made[key].rule.lr / bases[key[0]].lr if bases[key[0]].lr else 1.0 for key in order]
    found = ParameterGroups([made[key] for key in order], partial(_group_of, order, places))
    return Division(found, [key[0] for key in order], ratio)


def _group_of(order: Sequence[tuple], places: Mapping[str, tuple], name: str, parameter: nn.Parameter) -> int:
    """Asked again when the model changes: for parameters that take the place of others, and for some made trainable."""
    if name not in places and parameter.requires_grad:
        raise ConfigError(
            f"'{name}' requires a gradient and was in no group of the optimizer when the engine was made; give the "
            "optimizer all parameters that are ever to be trained."
        )
    return order.index(places[name]) if name in places else 0
