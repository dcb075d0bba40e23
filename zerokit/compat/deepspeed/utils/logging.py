"""`deepspeed.utils.logging`."""

from zerokit.compat.deepspeed.log import log_dist, logger

__all__ = ["log_dist", "logger"]
