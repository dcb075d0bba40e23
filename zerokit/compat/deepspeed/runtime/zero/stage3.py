"""`deepspeed.runtime.zero.stage3`: the optimizer of every stage is one class."""

from zerokit.compat.deepspeed.optimizer import DeepSpeedOptimizer as DeepSpeedZeroOptimizer_Stage3

__all__ = ["DeepSpeedZeroOptimizer_Stage3"]
