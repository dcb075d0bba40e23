"""`deepspeed.runtime.zero.config`."""

from enum import IntEnum


class ZeroStageEnum(IntEnum):
    """What is divided."""

    disabled = 0
    optimizer_states = 1
    gradients = 2
    weights = 3
    max_stage = 3
