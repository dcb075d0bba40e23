"""PyTorch's clipping of gradients on an engine's parameters, which have none to clip: refused in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any

from torch import nn
from torch.nn.utils import clip_grad

_MARK = "_zerokit_gradient_is_gone"


def mark(parameters: Sequence[nn.Parameter], gradient_is_gone: Callable[[], bool]) -> None:
    """Parameters are an engine's. gradient_is_gone: whether the step under way has had backward passes."""
    _guard()
    for parameter in parameters:
        setattr(parameter, _MARK, gradient_is_gone)


def unmark(parameters: Sequence[nn.Parameter]) -> None:
    """They are not any more."""
    for parameter in parameters:
        parameter.__dict__.pop(_MARK, None)


@cache
def _guard() -> None:
    """Let torch's functions ask first. They find no gradients, so they would clip nothing, and return 0.

    Functions below the public ones are replaced, since a program has its own names for those.
    """
    clip_grad._clip_grads_with_norm_ = _refusing(clip_grad._clip_grads_with_norm_)
    for cell in clip_grad.clip_grad_value_.__closure__ or ():  # of the decorator that turns gradients off
        cell.cell_contents = _refusing(cell.cell_contents)


def _refusing(clip: Callable) -> Callable:
    """`clip`, if none of the parameters is an engine's whose step has had backward passes."""

    @wraps(clip)
    def guarded(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        parameters = [parameters] if isinstance(parameters, nn.Parameter) else list(parameters)
        if any(parameter.__dict__.get(_MARK, bool)() for parameter in parameters):
            raise RuntimeError(
                "The gradients of this step are divided among the ranks, so a parameter has none to clip. Set "
                'train.clip_norm ("train": {"clip_norm": 1.0} of zerokit.initialize); engine.grad_norm is their norm '
                "after the step, and engine.values.gradient(name) reads one."
            )
        return clip(parameters, *args, **kwargs)

    return guarded
