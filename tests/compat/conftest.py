from __future__ import annotations

import pytest
import torch.distributed as dist


@pytest.fixture(autouse=True)
def no_process_group_stays():
    """initialize() opens a group for a single process too; tests that fork ranks need a process without one."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
