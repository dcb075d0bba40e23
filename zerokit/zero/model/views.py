"""How a model sees its weights: parameters that are views of memory in which units take turns.

[Note: valid views] A view of a unit may lie where another unit's weights are by now. Two things keep anybody from
computing with them. Every parameter has a version counter of its own, which autograd compares when it uses what it has
saved: `Views.show` sets the counters to a number that belongs to the weights of one step, `hide` to another, so a node
of the backward pass that would read hidden views raises. And whoever reads a parameter from Python finds it in its
module's `_parameters`, which `Parameters` takes the place of: hidden weights are gathered first.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

_set_versions = torch._C._autograd._unsafe_set_version_counter


take_grad: Callable[[Tensor], Tensor | None] = torch.Tensor.grad.__get__
"""The gradient that autograd has left in a parameter."""
set_grad: Callable[[Tensor, Tensor | None], None] = torch.Tensor.grad.__set__


class Views:
    """The parameters of one unit.

    read: gathers the unit for somebody outside its module's passes; `look` does so where a pass is under way, for who
    goes through all parameters and perhaps wants no more than their shapes.
    shown: the unit's weights lie there. readable: and stay there for all that is issued on the compute stream.
    lasting: nobody gathers into their memory, so they are readable whenever they are shown.
    loud: hidden views read NaN.
    """

    def __init__(self, name: str, parameters: list[nn.Parameter], lasting: bool, loud: bool):
        self.name, self.parameters, self.lasting = name, parameters, lasting
        self.shown = self.readable = lasting
        self.lent = False
        self.read: Callable[[], None] = lambda: None
        self.look: Callable[[], None] = lambda: None
        self._loud = loud and not lasting
        self._views: list[Tensor] = []
        self._nothing: list[Tensor] = []
        self._step = 0

    def point(self, views: Sequence[Tensor]) -> None:
        """Lie where `views` do from here on, with version counters of their own."""
        self._views = [view.data for view in views]
        for parameter, view in zip(self.parameters, self._views, strict=True):
            parameter.data = view
        if self._loud and self._views:
            nan = torch.full((), torch.nan, dtype=self._views[0].dtype, device=self._views[0].device)
            self._nothing = [nan.expand(view.shape) for view in self._views]
        if not self.lasting:
            self.shown = True
            self.hide()

    def show(self, step: int) -> None:
        """The unit's weights of `step` lie here."""
        self.readable = True
        if not (self.shown or self.lent):
            self.shown, self._step = True, step
            self._turn(2 * step, self._views if self._loud else None)

    def rest(self) -> None:
        """They still do, but others may take the memory."""
        self.readable = self.lasting or self.lent

    def hide(self) -> None:
        """They do not any more."""
        self.readable = self.lent
        if self.shown and not self.lent:
            self.shown = False
            self._turn(2 * self._step + 1, self._nothing if self._loud else None)

    def _turn(self, version: int, data: list[Tensor] | None) -> None:
        if data is not None:
            for parameter, view in zip(self.parameters, data, strict=True):
                parameter.data = view
        _set_versions(self.parameters, [version] * len(self.parameters))

    @contextmanager
    def lend(self, indices: Sequence[int], values: Sequence[Tensor]) -> Iterator[None]:
        """Let some parameters be other tensors, and all be readable, for the time of the block."""
        before, self.lent, self.readable = self.lent, True, True
        held = [self.parameters[index].data for index in indices]
        for index, value in zip(indices, values, strict=True):
            self.parameters[index].data = value
        try:
            yield
        finally:
            for index, data in zip(indices, held, strict=True):
                self.parameters[index].data = data
            self.lent = before
            if not before:
                self.shown = True  # so that it is hidden, whatever was lent
                self.hide()


class Parameters(dict):
    """Takes the place of a module's `_parameters`: who reads one that is hidden has its unit gathered first."""

    def __init__(self, parameters: dict[str, nn.Parameter | None], views: dict[str, Views]):
        super().__init__(parameters)
        self._of = views

    def __getitem__(self, name: str) -> nn.Parameter | None:
        if not torch.compiler.is_compiling():
            views = self._of.get(name)
            if views is not None and not views.readable:
                views.read()
        return dict.__getitem__(self, name)

    def __deepcopy__(self, memo: dict) -> dict:
        for views in self.hidden():
            if not views.lasting:
                raise RuntimeError(
                    f"The weights of '{views.name}' are divided among the ranks: copy the model inside "
                    "`with engine.gathered():`."
                )
            views.read()
        return {name: deepcopy(parameter, memo) for name, parameter in dict.items(self)}

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def hidden(self) -> list[Views]:
        """Those of its parameters that cannot be read as they are."""
        return [views for views in dict.fromkeys(self._of.values()) if not views.readable]

    def items(self) -> Any:
        """As of a dict. In a forward or backward pass all are gathered first; outside of one those that are divided
        stay hidden, as it takes all ranks to gather them."""
        self._prepare()
        return dict.items(self)

    def values(self) -> Any:
        """As of a dict; see `items`."""
        self._prepare()
        return dict.values(self)

    def _prepare(self) -> None:
        if torch.compiler.is_compiling():
            return
        for views in self.hidden():
            (views.read if views.lasting else views.look)()


def weakly(method: Callable, gone: str | None = None, default: Any = None) -> Callable:
    """A function that calls a bound method without keeping its object alive; once it is no more, raises RuntimeError
    with the message `gone`, or returns `default`."""
    reference = weakref.WeakMethod(method)

    def call(*args: Any, **kwargs: Any) -> Any:
        alive = reference()
        if alive is not None:
            return alive(*args, **kwargs)
        if gone is not None:
            raise RuntimeError(gone)
        return default

    return call
