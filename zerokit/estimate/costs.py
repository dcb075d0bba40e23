"""What one operation costs: arithmetic and bytes, and the seconds they take on a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from zerokit.record.hardware import Hardware
from zerokit.zero.layout import round_up

aten = torch.ops.aten
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward
ATTENTION_SHARE = 0.6
"""Flash attention reaches this share of what large products reach (Shah et al., "FlashAttention-3", 2024: version 2
runs at 35-60 % of an H100)."""
TILES = ((128, 256), (256, 128))
"""Rows and columns of the product that one unit computes at a time (CUTLASS's and cuBLAS's choice for large ones)."""
GRAIN = 64
"""Smaller products have smaller tiles, whose sides are multiples of this."""
TILE_S = 1.15e-6
"""Seconds that go into starting and ending a tile, whatever its format."""


def tensors_in(*values: Any) -> list[Tensor]:
    """All tensors among the values, however nested."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += tensors_in(*value)
        elif isinstance(value, dict):
            found += tensors_in(*value.values())
    return found


def flops_of(operation: Any, args: Sequence[Any], kwargs: dict[str, Any], output: Any) -> float:
    """Multiplications and additions of a matrix product, convolution or attention; 0 for anything else."""
    packet = getattr(operation, "overloadpacket", operation)
    if packet is ATTENTION:
        return 4 * _attention(args, args[4] if len(args) > 4 else kwargs.get("is_causal", False))
    if packet is ATTENTION_BACKWARD:
        return 10 * _attention(args[1:], args[7] if len(args) > 7 else kwargs.get("is_causal", False))
    if packet in flop_registry:
        return flop_registry[packet](*args, **kwargs, out_val=output)
    return 0.0


def _attention(args: Sequence[Any], causal: bool) -> float:
    """Elements of queries times keys, half of them where the attention is causal."""
    q, k = args[0], args[1]
    return q.shape[0] * q.shape[1] * q.shape[-2] * k.shape[-2] * q.shape[-1] * (0.5 if causal else 1.0)


def product_seconds(operation: Any, args: Sequence[Any], flops: float, output: Any, hardware: Hardware) -> float:
    """Time of a matrix product or attention, without its launch.

    Tiles are spread over the units in whole waves; the last wave takes as long as the others. Where there are fewer
    tiles than units, the inner dimension is split among several (split-K), if that is faster.
    """
    packet = getattr(operation, "overloadpacket", operation)
    first = tensors_in(args)[0]
    peak = hardware.flops.get(str(first.dtype).removeprefix("torch."), hardware.flops["float32"])
    if packet in (ATTENTION, ATTENTION_BACKWARD):
        return flops / (peak * ATTENTION_SHARE)
    result = tensors_in(output)[0]
    if hardware.units == 1 or result.ndim < 2 or not flops:
        return flops / peak
    rows, columns = result.shape[-2:]
    batch = result.numel() // max(1, rows * columns)
    inner = flops / 2 / max(1, result.numel())
    return min(_tiled(batch, rows, columns, inner, tile, peak, hardware.units) for tile in TILES)


def _tiled(batch: int, rows: int, columns: int, inner: float, tile: tuple[int, int], peak: float, units: int) -> float:
    height, width = (min(side, round_up(n, GRAIN)) for side, n in zip(tile, (rows, columns), strict=True))
    tiles = batch * math.ceil(rows / height) * math.ceil(columns / width)
    seconds = 2 * height * width * inner / (peak / units)
    splits = range(1, max(1, units // tiles) + 1)
    return min(math.ceil(tiles * parts / units) * (seconds / parts + TILE_S) for parts in splits)


def moved_bytes(*values: Any) -> int:
    """Bytes of all tensors among the values, each view for itself."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(*values))


def moved_by(operation: Any, args: Sequence[Any], kwargs: dict[str, Any], output: Any) -> int:
    """Bytes that an operation reads and writes: all it is given and returns; of tables, the rows in use."""
    of_its_own = MOVED.get(str(getattr(operation, "overloadpacket", operation)))
    return of_its_own(*args) if of_its_own is not None else moved_bytes(args, kwargs, output)


def _embedding(table: Tensor, tokens: Tensor, *_: Any) -> int:
    return moved_bytes(tokens) + 2 * tokens.numel() * moved_bytes(table[0])


def _copy_rows(out: Tensor, tokens: Tensor, *_: Any) -> int:
    return moved_bytes(tokens) + 2 * moved_bytes(out)


def _send_rows(targets: list[Tensor], values: Tensor, ids: Tensor, *_: Any) -> int:
    return moved_bytes(ids) + 2 * moved_bytes(values)


def _add_rows(gradient: Tensor, values: Tensor, own: Tensor, landed: Any, places: Any, start: int, more: bool) -> int:
    # Of every rank's rows this shard takes its part: together as many as one rank has.
    return (1 + more) * moved_bytes(gradient) + moved_bytes(values, own, places)


def _softmax_gradient(logits: Tensor, targets: Tensor, scale: Tensor | None) -> int:
    return moved_bytes(logits, targets) * (1 if scale is None else 2)


MOVED = {
    "aten.embedding": _embedding,
    "zerokit.copy_rows": _copy_rows,
    "zerokit.send_rows": _send_rows,
    "zerokit.add_rows": _add_rows,
    "zerokit.softmax_gradient": _softmax_gradient,
}
"""Operations that touch a few rows of what they are given (see `zerokit.zero.rows`), or that write where they read."""
