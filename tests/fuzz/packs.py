"""Containers in which blocks and models hand their tensors out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.fuzz import modules


@dataclass
class Output:
    """A tensor beside something else."""

    value: Tensor
    name: str = "output"


class Box:
    """A plain object, inside which no one looks for tensors."""

    def __init__(self, value: Tensor):
        self.inner = {"value": value}


PACK: dict[str, Callable[[Tensor, Tensor], Any]] = {  # from a block's output and input
    "": lambda out, x: out,
    "tensor": lambda out, x: out,
    "tuple": lambda out, x: (out, None),
    "list": lambda out, x: ["note", out],
    "dict": lambda out, x: {"size": len(out), "value": out},
    "dataclass": lambda out, x: Output(out),
    "object": lambda out, x: Box(out),
    "object_in_and_out": lambda out, x: Box(out),
    "distribution": lambda out, x: torch.distributions.Normal(out, 1.0),
    "with_input": lambda out, x: (out, x),
    "two_views": lambda out, x: out.chunk(2, -1),
    "packed_sequence": lambda out, x: modules.pack(out),
}
UNPACK: dict[str, Callable[[Any], Tensor]] = {
    "": lambda out: out,
    "tensor": lambda out: out,
    "tuple": lambda out: out[0],
    "list": lambda out: out[1],
    "dict": lambda out: out["value"],
    "dataclass": lambda out: out.value,
    "object": lambda out: out.inner["value"],
    "object_in_and_out": lambda out: out.inner["value"],
    "distribution": lambda out: out.mean,
    "with_input": lambda out: out[0] + 0.1 * out[1],
    "two_views": lambda out: torch.cat(out, -1),
    "packed_sequence": modules.unpack,
}
ENTER: dict[str, Callable[[Tensor], Any]] = {"object_in_and_out": Box, "packed_sequence": modules.pack}
"""Packs whose blocks get their input in them, too."""
