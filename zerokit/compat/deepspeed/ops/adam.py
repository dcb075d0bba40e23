"""`deepspeed.ops.adam`: Adam and AdamW; which kernel runs them follows from the device."""

from __future__ import annotations

from typing import Any

import torch

from zerokit.config.errors import ConfigError


class _Class(type):
    """A class whose call makes the optimizer of torch.optim that does what it says; that is an instance of it."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, torch.optim.Adam)

    def __call__(cls, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        return cls.make(*args, **kwargs)


def _fused(params: Any, lr: float = 1e-3, bias_correction: bool = True, betas: tuple = (0.9, 0.999),
              eps: float = 1e-8, adam_w_mode: bool = True, weight_decay: float = 0.0, amsgrad: bool = False,
              set_grad_none: bool = True) -> torch.optim.Optimizer:  # fmt: skip
    """AdamW, or Adam with an L2 penalty if `adam_w_mode` is false."""
    if not bias_correction:
        raise ConfigError("bias_correction=False is not supported: the moments are always corrected.")
    kind = torch.optim.AdamW if adam_w_mode else torch.optim.Adam
    return kind(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)


def _on_host(model_params: Any, lr: float = 1e-3, bias_correction: bool = True, betas: tuple = (0.9, 0.999),
                     eps: float = 1e-8, weight_decay: float = 0.0, amsgrad: bool = False, adamw_mode: bool = True,
                     fp32_optimizer_states: bool = True) -> torch.optim.Optimizer:  # fmt: skip
    """AdamW, or Adam with an L2 penalty if `adamw_mode` is false."""
    return _fused(model_params, lr, bias_correction, betas, eps, adamw_mode, weight_decay, amsgrad)


class FusedAdam(metaclass=_Class):
    """AdamW, or Adam with an L2 penalty if `adam_w_mode` is false."""

    make = staticmethod(_fused)


class DeepSpeedCPUAdam(metaclass=_Class):
    """AdamW, or Adam with an L2 penalty if `adamw_mode` is false."""

    make = staticmethod(_on_host)
