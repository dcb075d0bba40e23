"""What a script sees as `engine.optimizer`: parameter groups whose hyperparameters the engine's next step uses."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from zerokit.compat.deepspeed.takeover import Division
from zerokit.config.errors import ConfigError

if TYPE_CHECKING:
    from zerokit.compat.deepspeed.engine import DeepSpeedEngine

FIXED = ("weight_decay", "eps", "nesterov")
"""Hyperparameters that a running training keeps."""


class DeepSpeedOptimizer(torch.optim.Optimizer):
    """Its groups are those of the script's optimizer, which schedulers may have been made for; or made from the JSON.

    Learning rates, and one momentum (or first beta) for all groups, may change from step to step.
    """

    def __init__(self, engine: DeepSpeedEngine, groups: list[dict[str, Any]], division: Division,
                 client: torch.optim.Optimizer | None):  # fmt: skip
        self._engine, self._division = weakref.ref(engine), division
        if client is None:
            super().__init__(groups, {})
        else:
            super().__init__([{"params": group["params"]} for group in client.param_groups], {})
            self.param_groups, self.defaults = client.param_groups, client.defaults
        self.client = client
        self.optimizer = self if client is None else client
        self._fixed = [self._fixed_values(group) for group in self.param_groups]
        self._rates: list[float] | None = None
        self._momentum = self._momenta()

    @property
    def engine(self) -> DeepSpeedEngine:
        """The engine it belongs to."""
        engine = self._engine()
        assert engine is not None, "the engine is gone"
        return engine

    @staticmethod
    def _fixed_values(group: Mapping[str, Any]) -> dict[str, Any]:
        values = {key: group[key] for key in FIXED if key in group}
        return values | ({"betas[1]": group["betas"][1]} if "betas" in group else {})

    def _momenta(self) -> list[float]:
        return [float(g["betas"][0] if "betas" in g else g["momentum"]) for g in self.param_groups if _has_momentum(g)]

    def apply(self) -> None:
        """Hand the groups' present hyperparameters to the engine.

        Raises:
            ConfigError: one has changed that must stay, or the groups' momenta differ and have changed.
        """
        for index, (group, fixed) in enumerate(zip(self.param_groups, self._fixed, strict=True)):
            for key, value in self._fixed_values(group).items():
                if value != fixed[key]:
                    raise ConfigError(
                        f"optimizer.param_groups[{index}]['{key}'] went from {fixed[key]} to {value}: it is fixed when "
                        "the engine is made. lr and the momentum may change."
                    )
        rates = [float(group["lr"]) for group in self.param_groups]
        if rates != self._rates:
            division, self._rates = self._division, rates
            factors = [rates[o] * r for o, r in zip(division.origin, division.ratio, strict=True)]
            self.engine.engine.set_lr(1.0, factors)
        momenta = self._momenta()
        if momenta != self._momentum:
            if len(set(momenta)) > 1:
                raise ConfigError(f"The momenta of the groups became {momenta}: they may only change together.")
            self._momentum = momenta
            self.engine.engine.set_momentum(momenta[0])

    def step(self, closure: Any = None) -> None:
        """Nothing: `engine.step()` updates at the boundary."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the micro-batches since the last step; `engine.step()` has done so already."""
        self.engine.zero_grad()

    @property
    def overflow(self) -> bool:
        """Whether the last step was skipped because a gradient was not finite. Waits for the device."""
        return self.engine.overflow

    @property
    def loss_scale(self) -> float:
        """The present loss scale; 1 without one. Waits for the device."""
        scaler = self.engine.engine.numerics.scaler
        return 1.0 if scaler is None else float(scaler.scale)

    cur_scale = loss_scale

    def state_dict(self) -> dict[str, Any]:
        """Hyperparameters of the groups. Moments are divided among the ranks: `save_checkpoint` saves them."""
        return {"param_groups": [plain_group(group) for group in self.param_groups]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take hyperparameters from `state_dict()`.

        Raises:
            ConfigError: the groups are others.
        """
        groups = state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ConfigError(f"The state has {len(groups)} parameter groups, the optimizer {len(self.param_groups)}.")
        for group, values in zip(self.param_groups, groups, strict=True):
            group.update({key: tuple(v) if key == "betas" else v for key, v in values.items() if key != "params"})


def plain_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a group as JSON has them."""

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return float(value)
        return list(value) if isinstance(value, tuple) else value

    return {key: plain(value) for key, value in group.items() if key != "params"}


def _has_momentum(group: Mapping[str, Any]) -> bool:
    return "betas" in group or bool(group.get("momentum"))
