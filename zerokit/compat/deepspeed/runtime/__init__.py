"""`deepspeed.runtime`: where scripts and libraries look for the engine's classes and the schedulers."""

from zerokit.compat.deepspeed import engine, lr_schedules, zero

__all__ = ["engine", "lr_schedules", "zero"]
