"""`deepspeed.runtime.zero.stage_1_and_2`: the optimizer of every stage is one class."""

from zerokit.compat.deepspeed.optimizer import DeepSpeedOptimizer as DeepSpeedZeroOptimizer

__all__ = ["DeepSpeedZeroOptimizer"]
