"""`deepspeed.runtime`: where scripts and libraries look for the engine's classes and the schedulers."""

from zerokit.compat.deepspeed.runtime import config, engine, lr_schedules, utils, zero

__all__ = ["config", "engine", "lr_schedules", "utils", "zero"]
