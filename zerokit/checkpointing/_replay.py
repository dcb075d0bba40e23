"""A block called twice with arguments that it may change: lists that it appends to, caches of keys and values."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint

PLAIN = (Tensor, nn.Module, BlockMask, bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def may_change(value: Any) -> bool:
    """Whether a block may leave its argument other than it was, unseen by autograd, which watches tensors."""
    if isinstance(value, tuple):
        return any(may_change(item) for item in value)
    return not isinstance(value, PLAIN) and not callable(value)


class _Writer(pickle.Pickler):
    """Copies everything but tensors, modules and functions, which it lists."""

    def __init__(self, stream: io.BytesIO):
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self.shared: list[Any] = []

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, Tensor | nn.Module) and not callable(value):
            return None
        self.shared.append(value)
        return len(self.shared) - 1


class _Reader(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, shared: Sequence[Any]):
        super().__init__(stream)
        self.shared = shared

    def persistent_load(self, place: int) -> Any:
        return self.shared[place]


# Caches are Python objects that grow: `forward` is compiled on its own, with what it does to them around it.
@torch.compiler.disable(recursive=False)
def replayed(forward: Callable, args: tuple, kwargs: dict[str, Any], options: dict[str, Any]) -> Any:
    """A checkpoint around `forward`, whose recomputation gets the arguments as they were before the first call.

    Tensors in them, however deep, are inputs of the checkpoint: autograd raises if one is changed in place.

    Raises:
        TypeError: an argument holds something that cannot be copied, such as a generator or a lock.
    """
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    before, shared = _snapshot(args, kwargs)
    given = iter([(args, kwargs)])

    def run(*shared: Any) -> Any:
        args, kwargs = next(given, None) or _Reader(io.BytesIO(before), shared).load()
        return forward(*args, **kwargs)

    return checkpoint(run, *shared, use_reentrant=False, **options)


@torch.compiler.disable
def _snapshot(args: tuple, kwargs: dict[str, Any]) -> tuple[bytes, list[Any]]:
    """The arguments as bytes, and what these refer to."""
    stream = io.BytesIO()
    writer = _Writer(stream)
    try:
        writer.dump((args, kwargs))
    except (TypeError, pickle.PicklingError) as error:
        kinds = sorted({type(value).__name__ for value in (*args, *kwargs.values()) if may_change(value)})
        raise TypeError(
            f"A recomputed block gets an argument that it may change and that cannot be copied ({', '.join(kinds)}): "
            f"{error}. Pass tensors, lists or plain objects, or choose checkpointing=none or cpu."
        ) from error
    return stream.getvalue(), writer.shared
