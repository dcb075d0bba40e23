"""`deepspeed.checkpointing`: activation checkpoints that a model makes itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.checkpoint import checkpoint as _checkpoint

_configured = False


def configure(mpu_: Any = None, deepspeed_config: Any = None, **_: Any) -> None:
    """Nothing to set: recomputation keeps the inputs of a function, and random generators are restored."""
    global _configured
    _configured = True


def is_configured() -> bool:
    """Whether `configure` has been called."""
    return _configured


def reset() -> None:
    """Nothing is kept between passes."""


def checkpoint(function: Callable, *args: Any) -> Any:
    """`function(*args)`, which backward runs again instead of keeping its activations."""
    return _checkpoint(function, *args, use_reentrant=False)


def non_reentrant_checkpoint(function: Callable, *args: Any) -> Any:
    """The same."""
    return checkpoint(function, *args)
