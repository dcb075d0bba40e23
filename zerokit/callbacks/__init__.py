"""What a run calls while it trains, by name: `callbacks=[early_stopping]`, or one that a script has registered."""

from zerokit.callbacks._base import Callback, Run

__all__ = ["Callback", "Run"]
