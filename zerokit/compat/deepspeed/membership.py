"""Which engine a parameter belongs to, for functions that scripts call with a parameter alone."""

from __future__ import annotations

import weakref
from enum import Enum
from typing import NamedTuple

from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from zerokit.zero.engine import Engine


class Membership(NamedTuple):
    """An engine, and a parameter's name in it."""

    engine: Engine
    name: str


class ZeroParamStatus(Enum):
    """Whether a parameter's whole values are there."""

    AVAILABLE = 1
    NOT_AVAILABLE = 2
    INFLIGHT = 3


_members: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def add(engine: Engine) -> None:
    """Note the parameters of an engine."""
    for unit in engine.units:
        for name, parameter in zip(unit.names, unit.parameters, strict=True):
            _members[parameter] = (weakref.ref(engine), name)


def is_zero_param(parameter: object) -> bool:
    """Whether a parameter is divided."""
    return hasattr(parameter, "ds_id")


def membership_of(parameter: nn.Parameter) -> Membership | None:
    """Where a parameter belongs; None before `initialize`."""
    reference, name = _members.get(parameter, (lambda: None, ""))
    engine = reference()
    return None if engine is None else Membership(engine, name)
