"""Half precision with loss scaling: Micikevicius et al., "Mixed Precision Training", 2018, section 3.2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zerokit.config.registry import register
from zerokit.precision._policy import FORMATS, Precision


@dataclass
class FP16Options:
    """fp16 weights and activations, fp32 master weights and optimizer states, and a loss scale."""

    accumulate_dtype: Literal["fp32", "fp16"] = "fp32"
    """Format in which gradients are summed over micro-batches."""
    reduce_dtype: Literal["fp32", "fp16"] = "fp32"
    """Format in which gradients are summed over processes."""
    loss_scale: float | None = None
    """A fixed loss scale; null adapts it."""
    initial_scale: float = 65536.0
    """First loss scale."""
    window: int = 1000
    """Steps without an overflow after which the scale grows."""
    hysteresis: int = 2
    """Overflows before the scale shrinks; counted anew when the scale has grown."""
    consecutive_hysteresis: bool = False
    """Whether the overflows must follow each other: every step without one counts anew."""
    min_scale: float = 1.0
    """Smallest loss scale."""
    growth: float = 2.0
    """Factor by which the scale grows, and divisor by which it shrinks."""

    def __post_init__(self) -> None:
        for key in ("initial_scale", "min_scale") + (("loss_scale",) if self.loss_scale is not None else ()):
            if not 0 < getattr(self, key) < float("inf"):
                raise ValueError(f"{key} must be positive and finite, got {getattr(self, key):g}.")
        if self.growth <= 1:
            raise ValueError(f"growth must be above 1, got {self.growth:g}.")
        if self.window < 1 or self.hysteresis < 1:
            raise ValueError(f"window and hysteresis must be at least 1, got {self.window} and {self.hysteresis}.")


@register("precision", "fp16", FP16Options)
def build(options: FP16Options) -> Precision:
    """fp16 formats and a loss scaler as the options say."""

    def scaler(device):
        from zerokit.precision._scaler import DynamicScaler, StaticScaler

        if options.loss_scale is not None:
            return StaticScaler(options.loss_scale, device)
        return DynamicScaler(
            options.initial_scale,
            options.window,
            options.hysteresis,
            options.min_scale,
            options.growth,
            device,
            options.consecutive_hysteresis,
        )

    return Precision("float16", "separate", FORMATS[options.accumulate_dtype], FORMATS[options.reduce_dtype], scaler)
