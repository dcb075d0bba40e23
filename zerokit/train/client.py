"""Parameter groups of a torch optimizer that stay in charge: what they say is what an engine's next step does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import nn

from zerokit.config.errors import ConfigError
from zerokit.train.takeover import Division
from zerokit.zero.engine import Engine

FIXED = ("eps", "nesterov")
"""Hyperparameters that a running training keeps."""

Groups = Sequence[dict[str, Any]]


class Hyperparameters:
    """The parameter groups of an optimizer, for an engine whose groups are `division`.

    Learning rates, weight decays, and one momentum (or first beta) for all groups, may change from step to step.
    """

    def __init__(self, groups: Groups, division: Division):
        self.groups, self._division = groups, division
        rules = zip(division.origin, division.groups.groups, strict=True)
        self._keep_decay = {origin for origin, group in rules if group.rule.keeps_decay}
        self._fixed = [self._fixed_values(index) for index in range(len(groups))]
        self._decays = self._all_decays()
        self._rates: list[float] | None = None
        self._momentum = self._momenta()

    def _momenta(self) -> list[float]:
        return [float(g["betas"][0] if "betas" in g else g["momentum"]) for g in self.groups if _has_momentum(g)]

    def apply(self, engine: Engine) -> None:
        """Hand the groups' present hyperparameters to the engine.

        Raises:
            ConfigError: one has changed that must stay, or the groups' momenta differ and have changed.
        """
        self._check_fixed()
        decays = self._all_decays()
        if decays != self._decays:
            self._decays = decays
            engine.set_weight_decay(decays)
        rates, division = [float(group["lr"]) for group in self.groups], self._division
        factors = [rates[o] * r for o, r in zip(division.origin, division.ratio, strict=True)]
        engine.set_lr(1.0, None if rates == self._rates else factors)
        self._rates = rates
        momenta = self._momenta()
        if momenta != self._momentum:
            if len(set(momenta)) > 1:
                raise ConfigError(f"The momenta of the groups became {momenta}: they may only change together.")
            self._momentum = momenta
            engine.set_momentum(momenta[0])

    def _all_decays(self) -> list[float]:
        """Of each of the engine's groups."""
        own = zip(self._division.origin, self._division.groups.groups, strict=True)
        return [float(self.groups[origin].get("weight_decay", group.weight_decay)) for origin, group in own]

    def _fixed_values(self, index: int) -> dict[str, Any]:
        group = self.groups[index]
        names = (*FIXED, "weight_decay") if index in self._keep_decay else FIXED
        values = {key: group[key] for key in names if key in group}
        return values | ({"betas[1]": group["betas"][1]} if "betas" in group else {})

    def _check_fixed(self) -> None:
        for index, fixed in enumerate(self._fixed):
            for key, value in self._fixed_values(index).items():
                if value != fixed[key]:
                    raise ConfigError(
                        f"optimizer.param_groups[{index}]['{key}'] went from {fixed[key]} to {value}: it is fixed when "
                        "the engine is made. lr, weight_decay and the momentum may change."
                    )


def _has_momentum(group: Mapping[str, Any]) -> bool:
    return "betas" in group or bool(group.get("momentum"))


def mark_stepped(optimizer: torch.optim.Optimizer) -> None:
    """Tell torch's schedulers that the optimizer has stepped, or they warn that it did not."""
    optimizer._opt_called = True


class ClientEngine(Engine):
    """An engine that follows a torch optimizer, whose learning rates, weight decay and momentum may change."""

    client: torch.optim.Optimizer
    hyperparameters: Hyperparameters

    def follow(self, client: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], division: Division) -> None:
        """Begin. names: of the model's parameters as they were before the engine was made."""
        now = dict(self.module.named_parameters())  # those that were built on the meta device have been replaced
        for group in client.param_groups:
            group["params"] = [now[names[parameter]] for parameter in group["params"]]
        self.client, self.hyperparameters = client, Hyperparameters(client.param_groups, division)
        client.register_step_pre_hook(_refuse_step)
        client.register_state_dict_pre_hook(_refuse_state)
        client.register_load_state_dict_pre_hook(_refuse_state)

    def step(self) -> None:
        self.hyperparameters.apply(super())
        super().step()
        mark_stepped(self.client)

    @property
    def lr(self) -> float:
        """Learning rate of the optimizer's first group."""
        return float(self.client.param_groups[0]["lr"])

    def set_lr(self, lr: float, factors: Sequence[float] | None = None) -> NoReturn:
        """Not here: the optimizer's groups say it."""
        raise RuntimeError("This engine follows a torch optimizer: set optimizer.param_groups[…]['lr'] instead.")

    def set_momentum(self, momentum: float | None) -> NoReturn:
        """Not here: the optimizer's groups say it."""
        raise RuntimeError("This engine follows a torch optimizer: set the momentum or betas of its param_groups.")

    @property
    def changes(self) -> bool:
        return True  # a recording would not see what the optimizer's groups say later


def _refuse_step(*_: Any) -> NoReturn:
    raise RuntimeError("zerokit.initialize has taken this optimizer over: engine.step() updates, not optimizer.step().")


def _refuse_state(*_: Any) -> NoReturn:
    raise RuntimeError(
        "zerokit.initialize has taken this optimizer over, and its states are divided among the ranks: use "
        "engine.save() and engine.load()."
    )
