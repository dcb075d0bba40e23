"""Where a model's forward and backward passes meet the gathers and reductions. The only file that knows autograd.

[Note: hooks] Four events per unit. Forward enters and leaves the module: module hooks. Backward enters it with the
node that made one of its outputs, and has left it when the gradient of one of its inputs is known. Autograd runs nodes
in descending order of creation, so when the node that made an input runs, all nodes of the module have run. Where one
unit's output is the next one's input, both events meet at one node: the tensor hook (leaving) runs before the node's
prehook (entering), so two neighbours may share memory. Units whose inputs require no gradient are left when another
unit needs their memory, or at the end by `Engine.backward`.
The hooks wrap `module.forward` from outside, so neither `torch.compile` of a block nor its activation checkpointing
meets them. A model's own checkpoint around several units does: its recomputation gathers them again, and registers
nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from zerokit.zero.gather import Gatherer
from zerokit.zero.reduce import Reducer
from zerokit.zero.unit import Unit

if TYPE_CHECKING:
    from collections.abc import Sequence


def _tensors(*values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _tensors(*(getattr(value, field.name) for field in dataclasses.fields(value)))
        elif value is not None and not isinstance(value, bool | int | float | str):
            leaves = tree_leaves(value)
            if leaves != [value]:
                yield from _tensors(*leaves)


class Hooks:
    """Connects modules with the gathers and reductions of their units."""

    def __init__(self, gatherer: Gatherer, reducer: Reducer):
        self.gatherer, self.reducer = gatherer, reducer
        self.in_backward = False

    def attach(self, module: nn.Module, units: Sequence[Unit], regather: bool = True) -> None:
        """Gather `units` around the passes through `module`. regather: backward needs them (but not an embedding)."""
        trainable = [unit for unit in units if unit.trainable]
        passed: set[int] = set()  # inputs of the pass under way: a module may return one as it is

        def before_forward(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            for unit in units:
                self.gatherer.activate(unit, backward=self.in_backward)
            passed.clear()
            if torch.is_grad_enabled() and not self.in_backward:
                for tensor in _tensors(*args, *kwargs.values()):
                    passed.add(id(tensor))
                    if tensor.requires_grad and not tensor.is_leaf:
                        tensor.register_hook(after_backward)

        def after_forward(_module: nn.Module, _args: tuple, output: Any) -> None:
            if self.in_backward:  # a recomputation: backward still needs the weights
                return
            if torch.is_grad_enabled():
                self._watch(module, output, before_backward, passed)
            for unit in units:
                self.gatherer.release(unit)

        def before_backward(_gradients: tuple) -> None:
            if not self.in_backward:
                raise RuntimeError(
                    "Call engine.backward(loss) instead of loss.backward(): it scales and reduces gradients."
                )
            for unit in units:
                if regather:
                    self.gatherer.activate(unit, backward=True)
                unit.used = True

        def after_backward(_gradient: Tensor) -> None:
            for unit in trainable:
                self.reducer.try_reduce(unit)
            for unit in units:
                self.gatherer.release(unit)

        module.register_forward_pre_hook(before_forward, with_kwargs=True)
        module.register_forward_hook(after_forward)

    @staticmethod
    def _watch(module: nn.Module, output: Any, hook: Any, passed: set[int]) -> None:
        found = False
        for tensor in _tensors(output):
            found = True
            if tensor.grad_fn is not None and id(tensor) not in passed:
                tensor.grad_fn.register_prehook(hook)
        if not found:
            raise TypeError(
                f"{type(module).__name__}.forward returned a {type(output).__name__} in which no tensor was found; "
                "return tensors, or tuples, lists, dicts or dataclasses of tensors, so that backward can be followed."
            )
