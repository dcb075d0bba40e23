"""`deepspeed.ops.lion`."""

from __future__ import annotations

from typing import Any

from zerokit.train.takeover import Declared


def FusedLion(params: Any, lr: float = 1e-3, betas: tuple = (0.9, 0.999), weight_decay: float = 0.0,
              set_grad_none: bool = True) -> Declared:  # fmt: skip
    """Steps of one size, in the direction of a sign."""
    return Declared(params, "lion", {"lr": lr, "betas": betas, "weight_decay": weight_decay})


def DeepSpeedCPULion(model_params: Any, lr: float = 1e-3, betas: tuple = (0.9, 0.999), weight_decay: float = 0.0,
                     fp32_optimizer_states: bool = True) -> Declared:  # fmt: skip
    """The same."""
    return FusedLion(model_params, lr, betas, weight_decay)
