"""Optimizers: each file registers one and holds its formula, over fp32 values of flat shards."""

from zerokit.optimizer._base import Optimizer, OptimizerOptions, Phase, State

__all__ = ["Optimizer", "OptimizerOptions", "Phase", "State"]
