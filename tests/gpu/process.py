"""GPU tests that run in a process of their own: one that has touched CUDA cannot fork workers that use it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import pytest
import torch

from tests.ranks import run_ranks

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
GPUS = torch.cuda.device_count()
WORLD = min(2, max(1, GPUS))
needs_gpu = [pytest.mark.gpu, pytest.mark.skipif(GPUS == 0, reason="no GPU is visible")]
"""For `pytestmark`."""


def forked(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a forked process, on the first GPU."""

    @functools.wraps(test)
    def run(*args, **kwargs) -> None:
        def once() -> None:
            assert test(*args, **kwargs) is None

        run_ranks(once, 1, backend="nccl", timeout=300)

    return run
