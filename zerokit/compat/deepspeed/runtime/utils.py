"""`deepspeed.runtime.utils`."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from zerokit.compat.deepspeed.log import tell


def see_memory_usage(message: str, force: bool = False) -> None:
    """Log what this process uses on its device and on the host; nothing unless `force`."""
    if not force:
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    gpu = ""
    if torch.cuda.is_available():
        gpu = f"GPU {torch.cuda.memory_allocated() / 2**30:.2f} GiB, at most "
        gpu += f"{torch.cuda.max_memory_allocated() / 2**30:.2f}; "
    tell(f"{message}: {gpu}host at most {peak:.2f} GiB")


def clip_grad_norm_(parameters: Iterable[Tensor] | Tensor, max_norm: float, norm_type: float = 2,
                    mpu: Any = None) -> Tensor:  # fmt: skip
    """torch's, for parameters that no engine has; engines clip by `gradient_clipping`. The norm before clipping."""
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)
