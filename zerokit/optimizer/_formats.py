"""Formats of moments: how fp32 values lie in memory between two updates, as one or more planes.

Both small formats round at random, with a probability that makes the mean of many roundings the value itself: an
average that changes by a thousandth a step would otherwise stay where it is, since half a unit of the last place is
more. What chance is, a hash of the value, the gradient and the step says, so that every stage, world size and home
rounds alike, and a repeated run repeats.

bf16: one plane of 2 bytes. int8: 64 elements share a scale (bf16, rounded up), and an element is a code of 8 bits. With
r = |value| / scale a signed code is 127 √r and that of a value that is never negative 255 ∜r: codes are dense near 0,
where most moments lie, and reach down to 6·10⁻⁵ and 2·10⁻¹⁰ of the largest. Dettmers et al., "8-bit Optimizers via
Block-wise Quantization", 2022, look up such codes in a table; arithmetic costs no memory access. Of values that are
never negative only 0 itself becomes 0: a small second moment that did would make a huge step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zerokit.optimizer._base import Format, Reading, State
from zerokit.optimizer._codes import code_values

BLOCK = 64
"""Elements that share a scale; no shard's border cuts them."""
TINY = 1e-38
"""Smallest scale that is divided by."""


def noise(value: Any, gradient: Any, step: Any) -> Any:
    """Numbers in [0, 2¹⁶) that look random: a hash of the bits of fp32 values, gradients and the step (0-dim)."""
    import torch

    bits = value.view(torch.int32) ^ (gradient.view(torch.int32) * 0x3C6EF372) ^ (step.int() * 0x1B873593)
    bits = (bits ^ (bits >> 16)) * 0x45D9F3B
    bits = (bits ^ (bits >> 15)) * 0x2C1B3C6D
    return (bits ^ (bits >> 16)) & 0xFFFF


def to_bf16(value: Any, random: Any) -> Any:
    """fp32 values rounded to bf16 by random numbers in [0, 2¹⁶), or by one."""
    import torch

    bits = value.view(torch.int32)
    rounded = torch.where(value.isfinite(), bits + random, bits)
    return (rounded >> 16).to(torch.int16).view(torch.bfloat16)


def _blocks(value: Any) -> Any:
    """Values as (blocks, 64), zeros behind the last."""
    import torch

    flat, rest = value.reshape(-1), -value.numel() % BLOCK
    return (torch.nn.functional.pad(flat, (0, rest)) if rest else flat).view(-1, BLOCK)


def _spread(scale: Any, like: Any) -> Any:
    """The scale of each element, in the shape of `like`."""
    return scale.float()[:, None].expand(-1, BLOCK).reshape(-1)[: like.numel()].view(like.shape)


def _relative(value: Any) -> tuple[Any, Any]:
    """|value| / scale, at most 1, and the scales (blocks,), bf16."""
    scale = to_bf16(_blocks(value).abs().amax(dim=1), 0xFFFF)
    return (value.abs() / _spread(scale, value).clamp(min=TINY)).clamp(max=1.0), scale


def _choose(low: Any, value: Any, below: Any, above: Any, random: Any) -> Any:
    """The code `low` or the next, which stand for `below` and `above`: their mean over many choices is the value."""
    return low + ((value - below) * 2**16 > random * (above - below))


def _load_signed(planes: Sequence[Any]) -> Any:
    code, scale = planes
    root = code.float() * (1 / 127)
    return _spread(scale, code) * root * root.abs()


def _store_signed(value: Any, random: Any) -> Sequence[Any]:
    import torch

    relative, scale = _relative(value)
    low = (relative.sqrt() * 127).floor()
    code = _choose(low, relative * 127**2, low * low, (low + 1) * (low + 1), random).clamp(max=127)
    return torch.where(value < 0, -code, code).to(torch.int8), scale


def _load_positive(planes: Sequence[Any]) -> Any:
    code, scale = planes
    root = code.float() * (1 / 255)
    square = root * root
    return _spread(scale, code) * square * square


def _store_positive(value: Any, random: Any) -> Sequence[Any]:
    import torch

    relative, scale = _relative(value)
    low = (relative.sqrt().sqrt() * 255).floor()
    square, above = low * low, (low + 1) * (low + 1)
    code = _choose(low, relative * 255.0**4, square * square, above * above, random).clamp(max=255)
    return code.maximum((value > 0).float()).to(torch.uint8), scale


def _look_up(values: Sequence[float]) -> Callable[[Sequence[Any]], Any]:
    """Codes as places in a table of values."""

    def load(planes: Sequence[Any]) -> Any:
        import torch

        code, scale = planes
        return torch.tensor(values, device=code.device)[code.int()] * _spread(scale, code)

    return load


def _cannot_store(value: Any, random: Any) -> Sequence[Any]:
    raise AssertionError("a format that is read only")


def format_of(moments: str, state: State) -> Format:
    """The format of a moment by its name (`optimizer.moments`)."""
    name, signed = state.name, state.moment == "mean"
    if moments == "fp32":
        return Format((state,), lambda planes: planes[0], lambda value, random: (value,))
    if moments == "bf16":
        plane = State(f"{name}.bf16", "bfloat16")
        return Format((plane,), lambda planes: planes[0].float(), lambda value, random: (to_bf16(value, random),))
    assert moments == "int8", moments
    planes = State(f"{name}.code", "int8" if signed else "uint8"), State(f"{name}.scale", "bfloat16", per=BLOCK)
    return Format(planes, *((_load_signed, _store_signed) if signed else (_load_positive, _store_positive)))


def _by_table(state: State) -> Format:
    """What adam8bit wrote up to version 0.1: codes that stand for the values of a table, and fp32 scales."""
    signed = state.moment == "mean"
    end = "" if signed else "_sq"
    planes = State(f"code{end}", "uint8"), State(f"scale{end}", per=BLOCK)
    return Format(planes, _look_up(code_values(signed)), _cannot_store)


def reading(moments: str, state: State) -> Reading:
    """A moment in its format, and in what else states may have it."""
    others = [format_of(name, state) for name in ("fp32", "bf16", "int8") if name != moments]
    return Reading(state.name, format_of(moments, state), (*others, _by_table(state)))
