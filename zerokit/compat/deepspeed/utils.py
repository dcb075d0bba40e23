"""`deepspeed.utils`: whole values of single parameters at every stage, and small helpers. All ranks call together."""

from __future__ import annotations

from torch import Tensor, nn

from zerokit.compat.deepspeed.dataloader import RepeatingLoader
from zerokit.compat.deepspeed.homes import Home, home_of
from zerokit.compat.deepspeed.log import log_dist, logger
from zerokit.compat.deepspeed.states import fp32_weights as get_fp32_state_dict_from_zero_checkpoint

STATES = {"momentum_buffer": "velocity", "velocity": "momentum_buffer"}
"""Names of one state in torch.optim and here."""

__all__ = [
    "RepeatingLoader",
    "get_fp32_state_dict_from_zero_checkpoint",
    "log_dist",
    "logger",
    *(f"safe_{verb}_full_{what}" for verb in ("get", "set") for what in ("fp32_param", "grad", "optimizer_state")),
]


def _home(parameter: nn.Parameter) -> Home:
    home = home_of(parameter)
    if home is None:
        raise ValueError(
            f"The parameter of shape {tuple(parameter.shape)} belongs to no engine: take it from engine.module after "
            "deepspeed.initialize."
        )
    return home


def safe_get_full_fp32_param(param: nn.Parameter) -> Tensor:
    """The whole fp32 master value."""
    home = _home(param)
    return home.engine.values.weight(home.name)


def safe_set_full_fp32_param(param: nn.Parameter, value: Tensor) -> None:
    """Give the parameter another value, the same on all ranks: master and compute weights."""
    home = _home(param)
    home.engine.values.set_weight(home.name, value)


def safe_get_full_grad(param: nn.Parameter) -> Tensor | None:
    """The whole fp32 gradient of the step under way, without loss scale; None outside backward and step."""
    home = _home(param)
    return home.engine.values.gradient(home.name)


def safe_set_full_grad(param: nn.Parameter, value: Tensor) -> None:
    """Give the parameter another gradient for the step under way, the same on all ranks."""
    home = _home(param)
    home.engine.values.set_gradient(home.name, value)


def _state(home: Home, key: str) -> str | None:
    """The engine's name of a state; None where the optimizer keeps none of that name."""
    known = home.engine.values.states(home.name)
    return next((name for name in (key, STATES.get(key)) if name in known), None)


def safe_get_full_optimizer_state(param: nn.Parameter, optim_state_key: str) -> Tensor | None:
    """A whole fp32 state of the optimizer, such as "exp_avg"; None where there is none of that name."""
    home = _home(param)
    key = _state(home, optim_state_key)
    return None if key is None else home.engine.values.state(home.name, key)


def safe_set_full_optimizer_state(param: nn.Parameter, value: Tensor, optim_state_key: str) -> None:
    """Give a state of the optimizer other values, the same on all ranks.

    Raises:
        KeyError: the optimizer keeps no such state.
    """
    home = _home(param)
    home.engine.values.set_state(home.name, _state(home, optim_state_key) or optim_state_key, value)
