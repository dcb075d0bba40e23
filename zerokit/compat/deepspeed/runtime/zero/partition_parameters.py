"""`deepspeed.runtime.zero.partition_parameters`."""

from zerokit.compat.deepspeed.membership import ZeroParamStatus, is_zero_param
from zerokit.compat.deepspeed.zero import GatheredParameters, Init

__all__ = ["GatheredParameters", "Init", "ZeroParamStatus", "is_zero_param"]
