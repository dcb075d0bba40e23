"""AdamW with 8-bit moments: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zerokit.config.registry import register
from zerokit.optimizer._base import MomentOptions, Optimizer, SmallStates
from zerokit.optimizer._packed import pack
from zerokit.optimizer.adamw import AdamW


@dataclass
class Adam8bitOptions(MomentOptions, SmallStates):
    """AdamW whose moments take 2.1 bytes per element instead of 8."""

    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay, per unit of learning rate, of parameters with two or more dimensions."""
    moments: Literal["fp32", "bf16", "int8"] = "int8"
    """Format of the moments of parameters with two or more dimensions."""
    full_precision: list[str] = field(default_factory=lambda: ["*embed*", "*wte*", "*wpe*"])
    """Name patterns of parameters whose moments are fp32 in any case."""


@register("optimizer", "adam8bit", Adam8bitOptions)
def build(options: Adam8bitOptions) -> Optimizer:
    """The optimizer with these options."""
    return pack(AdamW(options))
