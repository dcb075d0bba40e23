"""`deepspeed.runtime.engine`."""

from zerokit.compat.deepspeed.engine import DeepSpeedEngine
from zerokit.compat.deepspeed.optimizer import DeepSpeedOptimizer as DeepSpeedOptimizerCallable

__all__ = ["DeepSpeedEngine", "DeepSpeedOptimizerCallable"]
