"""The value a precision builder returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Precision:
    """Formats by name, as `torch` calls them.

    compute: weights and activations. master: "same", "separate", "split" or "split24". accumulate: gradients
    between micro-batches. reduce: gradients on the wire. scaler: makes the loss scaler on a device, or None.
    """

    compute: str
    master: str
    accumulate: str = "float32"
    reduce: str = "float32"
    scaler: Any = None


FORMATS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
