"""Operations on meta tensors, each worked out once.

PyTorch derives in Python what most operations return, at up to a tenth of a millisecond each, and the blocks of a model
ask for the same ones over and over. What comes out, and what it costs, follow from shapes, strides and formats alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zerokit.estimate.costs import tensors_in

META = torch.device("meta")
PLAIN = (Tensor, nn.Parameter)
VALUES = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass
class Known:
    """What is known of an operation.

    recipe: None if it has to be called every time. cost: seconds and what they are spent on, once they are worked out.
    """

    recipe: Recipe | None
    cost: tuple[float, str] | None = None


class OpCache:
    """The operations of one kind of hardware seen so far."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Known] = {}

    def call(self, function: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, Known | None]:
        """What an operation returns, and what is known of it: None for views and where shapes do not tell all."""
        key = None if getattr(function, "is_view", False) else _key(function, args, kwargs)
        known = self._known.get(key)
        if known is not None and known.recipe is not None:
            return known.recipe.make(args, kwargs), known
        output = function(*args, **kwargs)
        if key is not None and known is None:
            same = not function._schema.is_mutable or _key(function, args, kwargs) == key  # else it changed a shape
            known = self._known[key] = Known(Recipe.of(function, args, kwargs, output) if same else None)
        return output, known


class Recipe:
    """How to make again what an operation returned: new tensors, or what it writes into (`out` or the first one)."""

    def __init__(self, shapes: list[tuple | None], sequence: type | None):
        self._shapes, self._sequence = shapes, sequence

    @classmethod
    def of(cls, function: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Recipe | None:
        """The recipe; None if what came out shares memory with an argument, is not on the meta device or no tensor."""
        if function._schema.is_mutable:
            target = _target(args, kwargs)
            return cls([], None) if output is target and torch.Tag.inplace_view not in function.tags else None
        if type(output) not in (Tensor, tuple, list):
            return None
        outputs = [output] if type(output) is Tensor else output
        made = [value for value in outputs if value is not None]
        if not made or not all(type(value) is Tensor and _is_whole(value) for value in made):
            return None
        storages = {value.untyped_storage()._cdata for value in made}
        if len(storages) < len(made) or storages & {value.untyped_storage()._cdata for value in tensors_in(args)}:
            return None
        shapes = [None if value is None else (value.shape, value.stride(), value.dtype) for value in outputs]
        return cls(shapes, None if type(output) is Tensor else type(output))

    def make(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The result for arguments of the same shapes."""
        if not self._shapes:
            return _target(args, kwargs)
        made = [None if shape is None else _new(*shape) for shape in self._shapes]
        return made[0] if self._sequence is None else self._sequence(made)


def _target(args: tuple, kwargs: dict[str, Any]) -> Any:
    """What an operation that changes an argument writes into."""
    return kwargs.get("out", args[0] if args else None)


def _new(shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, stride, dtype=dtype, device=META)


def _is_whole(tensor: Tensor) -> bool:
    """Whether `_new` would make the same tensor: on the meta device, on a storage no larger than its shape needs."""
    alike = _new(tensor.shape, tensor.stride(), tensor.dtype).untyped_storage().nbytes()
    return tensor.device == META and tensor.storage_offset() == 0 and tensor.untyped_storage().nbytes() == alike


def _key(function: Any, args: tuple, kwargs: dict[str, Any]) -> Hashable | None:
    """What the result of an operation follows from, or None if that is not only shapes.

    An operation without tensors has none: nothing would tell that the compiler is at work, which makes its own kind.
    """
    described: list[Hashable] = [function]
    try:
        return tuple(described) if _describe((*args, *kwargs.items()), described) else None
    except TypeError:
        return None


def _describe(values: Iterable[Any], into: list[Hashable]) -> bool:
    """Append what describes the values; whether there is a tensor among them.

    Raises:
        TypeError: one is a tensor of another kind or on another device, or nothing that can be described.
    """
    found = False
    for value in values:
        kind = type(value)
        if kind in PLAIN:
            if not value.is_meta:
                raise TypeError(value.device)
            found = True
            into += (value.shape, value.stride(), value.dtype)
        elif kind in (tuple, list):
            into.append(len(value))
            found |= _describe(value, into)
        elif kind in VALUES:
            into += (kind, value)  # 1, 1.0 and True are equal, but not to every operation
        else:
            raise TypeError(kind)
    return found
