"""bf16 computation with exact fp32 master weights: Kalamkar et al., "A Study of BFLOAT16 for Deep Learning", 2019."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zerokit.config.registry import register
from zerokit.precision._policy import FORMATS, Precision


@dataclass
class BF16Options:
    """bf16 weights and activations, fp32 master weights and optimizer states."""

    accumulate_dtype: Literal["fp32", "bf16"] = "fp32"
    """Format in which gradients are summed over micro-batches."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """Format in which gradients are summed over processes; bf16 halves the traffic and rounds each sum."""
    master: Literal["split", "separate", "split24"] = "split"
    """How the fp32 master weights are stored: `split` keeps the 16 bits that the bf16 weight lacks (2 bytes per
    parameter), `separate` a whole copy (4 bytes). Both are exact. `split24` keeps 8 of these bits (1 byte): masters of
    24 bits, rounded to the nearest."""


@register("precision", "bf16", BF16Options)
def build(options: BF16Options) -> Precision:
    """bf16 formats as the options say."""
    return Precision("bfloat16", options.master, FORMATS[options.accumulate_dtype], FORMATS[options.reduce_dtype])
