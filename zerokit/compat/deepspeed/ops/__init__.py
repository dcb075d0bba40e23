"""`deepspeed.ops`: DeepSpeed's optimizer classes, as descriptions that `initialize` takes over."""

from zerokit.compat.deepspeed.ops import adagrad, adam, lamb, lion

__all__ = ["adagrad", "adam", "lamb", "lion"]
