"""What a script sees as `engine.optimizer`: parameter groups whose hyperparameters the engine's next step uses."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch

from zerokit.compat.deepspeed.parts import EngineParts
from zerokit.config.errors import ConfigError
from zerokit.train.client import Hyperparameters
from zerokit.train.takeover import Division


class DeepSpeedOptimizer(torch.optim.Optimizer):
    """Its groups are those of the script's optimizer, which schedulers may have been made for; or made from the JSON.

    Learning rates, and one momentum (or first beta) for all groups, may change from step to step.
    """

    def __init__(self, engine: EngineParts, groups: list[dict[str, Any]], division: Division,
                 client: torch.optim.Optimizer | None):  # fmt: skip
        self._engine, self._division = weakref.ref(engine), division
        if client is None:
            super().__init__(groups, {})
        else:
            super().__init__([{"params": group["params"]} for group in client.param_groups], {})
            self.param_groups, self.defaults = client.param_groups, client.defaults
        self.client = client
        self.optimizer = self if client is None else client
        self._hyperparameters = Hyperparameters(self.param_groups, division)

    @property
    def engine(self) -> EngineParts:
        """The engine it belongs to."""
        engine = self._engine()
        assert engine is not None, "the engine is gone"
        return engine

    def apply(self) -> None:
        """Hand the groups' present hyperparameters to the engine.

        Raises:
            ConfigError: one has changed that must stay, or the groups' momenta differ and have changed.
        """
        self._hyperparameters.apply(self.engine.engine)

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
