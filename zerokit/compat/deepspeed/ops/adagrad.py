"""`deepspeed.ops.adagrad`."""

from __future__ import annotations

from typing import Any

import torch


def DeepSpeedCPUAdagrad(model_params: Any, lr: float = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0,
                        amsgrad: bool = False,
                        fp32_optimizer_states: bool = True) -> torch.optim.Optimizer:  # fmt: skip
    """Adagrad."""
    return torch.optim.Adagrad(model_params, lr=lr, eps=eps, weight_decay=weight_decay)
