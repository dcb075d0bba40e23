"""`deepspeed.ops.adam`: Adam and AdamW; which kernel runs them follows from the device."""

from __future__ import annotations

from typing import Any

import torch

from zerokit.config.errors import ConfigError


def FusedAdam(params: Any, lr: float = 1e-3, bias_correction: bool = True, betas: tuple = (0.9, 0.999),
              eps: float = 1e-8, adam_w_mode: bool = True, weight_decay: float = 0.0, amsgrad: bool = False,
              set_grad_none: bool = True) -> torch.optim.Optimizer:  # fmt: skip
    """AdamW, or Adam with an L2 penalty if `adam_w_mode` is false."""
    if not bias_correction:
        raise ConfigError("bias_correction=False is not supported: the moments are always corrected.")
    kind = torch.optim.AdamW if adam_w_mode else torch.optim.Adam
    return kind(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad)


def DeepSpeedCPUAdam(model_params: Any, lr: float = 1e-3, bias_correction: bool = True, betas: tuple = (0.9, 0.999),
                     eps: float = 1e-8, weight_decay: float = 0.0, amsgrad: bool = False, adamw_mode: bool = True,
                     fp32_optimizer_states: bool = True) -> torch.optim.Optimizer:  # fmt: skip
    """AdamW, or Adam with an L2 penalty if `adamw_mode` is false."""
    return FusedAdam(model_params, lr, bias_correction, betas, eps, adamw_mode, weight_decay, amsgrad)
