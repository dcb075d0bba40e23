"""torch.nn.utils.clip_grad_norm_ on an engine's parameters, which have no gradients to clip: refused in words."""

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
    """Let torch's function ask first. It finds no gradients, so it would return 0 and clip nothing; its helper gets the
    parameters however they are handed over."""
    clip = clip_grad._clip_grads_with_norm_

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

    clip_grad._clip_grads_with_norm_ = guarded
