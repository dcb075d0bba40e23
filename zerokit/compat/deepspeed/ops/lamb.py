"""`deepspeed.ops.lamb`."""

from __future__ import annotations

from typing import Any

from zerokit.config.errors import ConfigError
from zerokit.train.takeover import Declared


def FusedLamb(params: Any, lr: float = 1e-3, bias_correction: bool = True, betas: tuple = (0.9, 0.999),
              eps: float = 1e-8, eps_inside_sqrt: bool = False, weight_decay: float = 0.0, max_grad_norm: float = 0.0,
              max_coeff: float = 10.0, min_coeff: float = 0.01, amsgrad: bool = False) -> Declared:  # fmt: skip
    """Adam's direction with a length in proportion to that of each parameter."""
    for name, value, only in (("bias_correction", bias_correction, True), ("eps_inside_sqrt", eps_inside_sqrt, False),
                              ("max_grad_norm", max_grad_norm, 0.0), ("amsgrad", amsgrad, False)):  # fmt: skip
        if value != only:
            raise ConfigError(f"FusedLamb({name}={value}) is not supported; leave it at {only}.")
    ratios = {"max_ratio": max_coeff, "min_ratio": min_coeff}
    return Declared(params, "lamb", {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, **ratios})
