"""What a script sees as `engine.optimizer`: parameter groups whose hyperparameters the engine's next step uses."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from zerokit.compat.deepspeed.parts import EngineParts
from zerokit.config.errors import ConfigError
from zerokit.precision._scaler import DynamicScaler
from zerokit.train.client import Hyperparameters
from zerokit.train.takeover import Division
from zerokit.zero.engine import Engine


class DeepSpeedOptimizer(torch.optim.Optimizer):
    """Its groups are those of the script's optimizer, which schedulers may have been made for; or made from the JSON.

    Learning rates, weight decays, and one momentum (or first beta) for all groups, may change from step to step.
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

    @property
    def loss_scaler(self) -> LossScaler:
        """The loss scale under DeepSpeed's names."""
        return LossScaler(self.engine)

    @property
    def dynamic_loss_scale(self) -> bool:
        """Whether the loss scale adapts itself."""
        return self.loss_scaler.dynamic

    @property
    def state(self) -> Mapping[nn.Parameter, Mapping[str, Any]]:
        """What the optimizer keeps of each parameter: `step` and whole fp32 moments, put together when they are read,
        by all ranks alike. Empty before the first step."""
        return States(self.engine)

    @state.setter
    def state(self, value: Any) -> None:
        """What torch's constructor makes is not used."""

    def hyperparameters(self) -> dict[str, Any]:
        """The groups without their parameters."""
        return {"param_groups": [plain_group(group) for group in self.param_groups]}

    def state_dict(self) -> dict[str, Any]:
        """Hyperparameters of the groups, and by name of every trained parameter its whole fp32 master and moments, on
        the CPU. Every rank calls it. It costs the memory of the whole training: `save_checkpoint` does not."""
        self.engine.engine.follow_model()
        found = {}
        for name in trained_names(self.engine.engine):
            values = self.engine.engine.values
            own = {key: values.state(name, key).cpu() for key in values.states(name)}
            found[name] = {"master": values.weight(name).cpu(), **own}
        step = float(self.engine.engine.steps_taken)
        return {**self.hyperparameters(), "state": found, "step": step}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take what `state_dict()` gave, or its `param_groups` alone. Every rank calls it.

        Raises:
            ConfigError: the groups, parameters or shapes are others.
        """
        groups = state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ConfigError(f"The state has {len(groups)} parameter groups, the optimizer {len(self.param_groups)}.")
        inner = self.engine.engine
        states = state_dict.get("state", {})
        names = trained_names(inner)
        if states and set(states) != set(names):
            odd = sorted(set(states) ^ set(names), key=str)
            raise ConfigError(f"The state is of other parameters: {', '.join(map(str, odd[:3]))} is on one side only.")
        for name, own in states.items():
            if set(own) - {"master", *inner.values.states(name)}:
                raise ConfigError(f"The state of '{name}' is another optimizer's: it has {', '.join(own)}.")
            try:
                for key, value in own.items():
                    write = inner.values.set_weight if key == "master" else partial(inner.values.set_state, key=key)
                    write(name, value=value)
            except ValueError as error:
                raise ConfigError(str(error)) from error
        for group, values in zip(self.param_groups, groups, strict=True):
            group.update({key: tuple(v) if key == "betas" else v for key, v in values.items() if key != "params"})
        if states:
            inner.steps_taken.fill_(state_dict.get("step", 0.0))
            inner.states_changed()


class LossScaler:
    """The loss scale of an engine."""

    def __init__(self, engine: EngineParts):
        self._scaler = engine.engine.numerics.scaler

    @property
    def cur_scale(self) -> float:
        """The present scale; 1 without one. Waits for the device."""
        return 1.0 if self._scaler is None else float(self._scaler.scale)

    loss_scale = cur_scale

    @property
    def dynamic(self) -> bool:
        """Whether it adapts itself."""
        return isinstance(self._scaler, DynamicScaler)


class States(Mapping):
    """The optimizer's states by parameter, read when they are asked for."""

    def __init__(self, engine: EngineParts):
        self._engine = engine.engine
        self._names = {} if not float(self._engine.steps_taken) else {
            parameter: name for unit in self._engine.units if unit.trainable
            for name, parameter in zip(unit.names, unit.parameters, strict=True)
        }  # fmt: skip

    def __getitem__(self, parameter: nn.Parameter) -> Mapping[str, Any]:
        name, values = self._names[parameter], self._engine.values
        own = {key: values.state(name, key) for key in values.states(name)}
        return {"step": self._engine.steps_taken.clone(), **own}

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def trained_names(engine: Engine) -> list[str]:
    """Of all parameters that are trained, sorted, so that ranks read them in one order."""
    return sorted(name for unit in engine.units if unit.trainable for name in unit.names)


def plain_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters of a group as JSON has them."""

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return float(value)
        return list(value) if isinstance(value, tuple) else value

    return {key: plain(value) for key, value in group.items() if key != "params"}
