"""Single precision throughout."""

from __future__ import annotations

from zerokit.config.registry import NoOptions, register
from zerokit.precision._policy import Precision


@register("precision", "fp32")
def build(options: NoOptions) -> Precision:
    """Weights, gradients and states in fp32; the weights are their own master weights."""
    return Precision(compute="float32", master="same")
