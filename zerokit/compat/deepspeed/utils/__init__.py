"""`deepspeed.utils`: whole values of single parameters at every stage, and small helpers. All ranks call together."""

from __future__ import annotations

from torch import Tensor, nn

from zerokit.compat.deepspeed.dataloader import RepeatingLoader
from zerokit.compat.deepspeed.leaves import (
    get_z3_leaf_modules,
    set_z3_leaf_module,
    set_z3_leaf_modules,
    unset_z3_leaf_modules,
    z3_leaf_module,
    z3_leaf_parameter,
)
from zerokit.compat.deepspeed.log import log_dist, logger
from zerokit.compat.deepspeed.membership import Membership, membership_of
from zerokit.compat.deepspeed.states import fp32_weights as get_fp32_state_dict_from_zero_checkpoint

STATES = {"momentum_buffer": "velocity", "velocity": "momentum_buffer"}
"""Names of one state in torch.optim and here."""

__all__ = [
    "RepeatingLoader",
    "get_fp32_state_dict_from_zero_checkpoint",
    "get_z3_leaf_modules",
    "set_z3_leaf_module",
    "set_z3_leaf_modules",
    "unset_z3_leaf_modules",
    "z3_leaf_module",
    "z3_leaf_parameter",
    "log_dist",
    "logger",
    *(f"safe_{verb}_full_{what}" for verb in ("get", "set") for what in ("fp32_param", "grad", "optimizer_state")),
]


def _membership(parameter: nn.Parameter) -> Membership:
    member = membership_of(parameter)
    if member is None:
        raise ValueError(
            f"The parameter of shape {tuple(parameter.shape)} belongs to no engine: take it from engine.module after "
            "deepspeed.initialize."
        )
    return member


def safe_get_full_fp32_param(param: nn.Parameter) -> Tensor:
    """The whole fp32 master value."""
    member = _membership(param)
    return member.engine.values.weight(member.name)


def safe_set_full_fp32_param(param: nn.Parameter, value: Tensor) -> None:
    """Give the parameter another value, the same on all ranks: master and compute weights."""
    member = _membership(param)
    member.engine.values.set_weight(member.name, value)


def safe_get_full_grad(param: nn.Parameter) -> Tensor | None:
    """The whole fp32 gradient of the step under way, without loss scale; None outside backward and step."""
    member = _membership(param)
    return member.engine.values.gradient(member.name)


def safe_set_full_grad(param: nn.Parameter, value: Tensor) -> None:
    """Give the parameter another gradient for the step under way, the same on all ranks."""
    member = _membership(param)
    member.engine.values.set_gradient(member.name, value)


def _state(member: Membership, key: str) -> str | None:
    """The engine's name of a state; None where the optimizer keeps none of that name."""
    known = member.engine.values.states(member.name)
    return next((name for name in (key, STATES.get(key)) if name in known), None)


def safe_get_full_optimizer_state(param: nn.Parameter, optim_state_key: str) -> Tensor | None:
    """A whole fp32 state of the optimizer, such as "exp_avg"; None where there is none of that name."""
    member = _membership(param)
    key = _state(member, optim_state_key)
    return None if key is None else member.engine.values.state(member.name, key)


def safe_set_full_optimizer_state(param: nn.Parameter, value: Tensor, optim_state_key: str) -> None:
    """Give a state of the optimizer other values, the same on all ranks.

    Raises:
        KeyError: the optimizer keeps no such state.
    """
    member = _membership(param)
    member.engine.values.set_state(member.name, _state(member, optim_state_key) or optim_state_key, value)
