"""A unit: the parameters that are gathered and reduced together, and the memory their whole weights appear in."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from zerokit.zero.buffer import Buffer
from zerokit.zero.layout import Layout
from zerokit.zero.model.views import Views, set_grad, take_grad


@dataclass(eq=False)
class Slot:
    """Memory for whole weights, at one address for good. Units that are never needed at once take turns in it.

    buffer: (elements,), at least as long as the longest of its units.
    version: of which step the owner's weights are. active: the owner is in use, so nobody else may gather into it.
    free, ready: events of the last use and of the last gather (None on the CPU).
    """

    buffer: Tensor
    version: int = -1
    active: bool = False
    free: object = None
    ready: object = None
    _owner: weakref.ref[Unit] | None = None

    @property
    def owner(self) -> Unit | None:
        """The unit whose weights it holds or is receiving. Units have slots: the way back is weak."""
        return None if self._owner is None else self._owner()

    @owner.setter
    def owner(self, unit: Unit | None) -> None:
        self._owner = None if unit is None else weakref.ref(unit)


@dataclass(eq=False)
class Unit:
    """Parameters of one module (or what is left over for the root), of one kind: all trainable or all frozen.

    [Note: gradients come and go] A unit's gradient is one tensor object for good, so that the optimizer's views of it
    are made once, but its memory is there from the first reduction of a step until compute has waited for the update
    that used it: in the next forward pass, where activations take it over block by block. At the peak a rank holds the
    larger of the two, not both. It is allocated and freed on the compute stream; the streams of reductions and updates
    follow that one before they use it, and it follows them before it is freed. On a CPU the memory is kept: there it
    would come back page by page.

    parameters: in the order of `layout`; names: their names in the model; shapes: of the whole parameters.
    kind: "root" (what is left over, whole while a step runs), "block" (one of a row of modules), "outer" (another
        module of its own) or "nested" (inside or around another unit's module).
    """

    name: str
    names: list[str]
    parameters: list[nn.Parameter]
    layout: Layout
    trainable: bool
    module: nn.Module
    kind: str
    shapes: list[torch.Size] = field(default_factory=list)
    slot: Slot | None = None
    model_views: Views | None = None  # how the model sees its parameters
    weight: Buffer | None = None  # compute weights, at the stage's home of parameters
    shard: Buffer | None = None  # what this rank contributes to a gather into the slot; inside `weight`
    gradient: Buffer | None = None  # at the stage's home of gradients
    extra: Buffer | None = None  # what completes weights to the master's, at the stage's home of the optimizer
    updated: object = None  # event: the shard holds the weights of the last update
    fenced: int = -1  # the version whose shards are known to be written on every rank
    reduced: bool = False  # this micro-batch's gradients have been handed to the reduction
    in_place: bool = False  # its module reads every rank's shard where it lies, so it is never gathered
    rows: list | None = None  # where gradients travel by rows: tokens (n,), gradients (n, dim) of this backward pass
    spent: bool = False  # its gradient is used up by an update, which may still run
    transient: bool = False  # its gradient gives its memory back once it is spent
    away: bool = False  # what only its update needs lies on the host: states, and what completes weights
    gaps: list[Tensor] = field(default_factory=list)  # the padding in `gradient`

    def __post_init__(self) -> None:
        self.shapes = [p.shape for p in self.parameters]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters with their names in the model."""
        return zip(self.names, self.parameters, strict=True)

    @property
    def complete(self) -> bool:
        """Whether backward has reached all parameters. Autograd sets `grad` once per pass, when all uses have
        contributed; rows may come until the end."""
        return self.rows is None and all(take_grad(p) is not None for p in self.parameters)

    @property
    def names_with_gradients(self) -> list[str]:
        """Names of the parameters in which backward has left gradients that nobody has taken."""
        return [name for name, p in self.named_parameters() if take_grad(p) is not None]

    def take_gradients(self) -> list[Tensor | None]:
        """The parameters' gradients of this backward pass, which are theirs no more."""
        gradients = [take_grad(p) for p in self.parameters]
        for parameter in self.parameters:
            set_grad(parameter, None)
        return [g.to_dense() if g is not None and g.is_sparse else g for g in gradients]

    def set_gradient(self, gradient: Buffer, transient: bool) -> None:
        """Take zeros that hold the gradient."""
        self.gradient, self.transient = gradient, transient
        self.spent = True
        pads = (pad.clip(gradient.span.start, gradient.span.stop) for pad in self.layout.padding())
        self.gaps = [gradient.at(pad) for pad in pads if len(pad)]

    def hold_gradient(self) -> None:
        """Give the gradient memory if it has none, on the current stream: padding is zero, the rest undefined."""
        self.spent = False
        storage = self.gradient.values.untyped_storage()
        if storage.size() == 0:
            storage.resize_(self.gradient.values.nbytes)
            if self.gaps:
                torch._foreach_zero_(self.gaps)

    def drop_gradient(self) -> None:
        """Free the memory of a gradient that is spent; the current stream must follow the update. No view of it can be
        made until it has memory again."""
        if self.spent and self.transient:
            self.gradient.values.untyped_storage().resize_(0)
        self.spent = False

    def views(self, flat: Tensor) -> list[Tensor]:
        """Each parameter's view of a whole flat buffer (≥ layout.total,), in the parameters' shapes."""
        pieces = zip(self.layout.offsets, self.layout.numels, self.shapes, strict=True)
        return [flat[offset : offset + numel].view(shape) for offset, numel, shape in pieces]
