"""Models that keep the keys and values of every block for generation, in training as well, unless told otherwise."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn


def keep_no_caches(model: nn.Module) -> None:
    """Let the forwards of `model` keep no cache where gradients are taken, unless the caller asks for one.

    Hugging Face models make one if their `config.use_cache` says so, which is the default. It would hold what
    activation checkpointing is to free.
    """
    for module in model.modules():
        has_cache = hasattr(getattr(module, "config", None), "use_cache") and _takes_cache(module)
        if has_cache and _without_cache not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_without_cache, with_kwargs=True)


def _takes_cache(module: nn.Module) -> bool:
    return "use_cache" in inspect.signature(module.forward).parameters


def _without_cache(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
    by_place = inspect.signature(module.forward).bind_partial(*args).arguments
    asked = "use_cache" in by_place or kwargs.get("use_cache") is not None
    if asked or not module.config.use_cache or not torch.is_grad_enabled():
        return None
    return args, {**kwargs, "use_cache": False}
