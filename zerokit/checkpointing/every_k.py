"""Recompute every k-th block; keep the activations of the others, or the costly ones of them."""

from dataclasses import dataclass
from typing import Literal

from zerokit.config.registry import register


@dataclass
class EveryKOptions:
    k: int = 2
    """Blocks 0, k, 2k, … are recomputed; 1 is the same as checkpointing=full."""
    others: Literal["none", "selective"] = "none"
    """The other blocks keep all (none) or recompute what is cheap (selective): with k, any memory between that of
    selective and that of full."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k: expected at least 1; got {self.k}.")


register("checkpointing", "every_k", EveryKOptions, "zerokit.checkpointing._recompute:build_every_k")
