"""A class of `transformers` with what zerokit asks of a model: its loss, its first values, what a token costs."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zerokit.model._hf.first_values import reset_module
from zerokit.model._hf.flops import flops_per_token
from zerokit.model._hf.loss import LossHead, following
from zerokit.model._hf.masks import one_sequence_a_row


class Trained:
    """Mixed into a class of `transformers` by `trained`.

    Beside what it takes there, `forward` takes `targets`, each that of the output at its own place, and returns their
    mean loss (0-dim). `labels` mean what they mean in `transformers`: those of a causal model stand at the places of
    their own tokens. With either, no cache of keys and values is kept.
    """

    shardwise_init = True
    options: Any = None
    """Those of `model=hf` that it was built with."""
    weights_folder: Path | None = None
    """Where the weights were read from; None: they were drawn."""
    shifts_labels: bool
    """Whether outputs are compared with the labels of the next place."""

    def reset_module(self, name: str) -> None:
        """Give the parameters and buffers of a module their first values."""
        reset_module(self, name)

    def flops_per_token(self, seq_len: int | None) -> float:
        """Of a forward and a backward pass; see `zerokit.model._hf.flops`."""
        return flops_per_token(self, seq_len)

    @property
    def loss_function(self) -> Any:
        """What the model calls with its logits and labels."""
        head = self._loss_head()
        return super().loss_function if head is None or head.targets is None else head.handed_over

    @loss_function.setter
    def loss_function(self, function: Any) -> None:
        self._loss_function = function

    def _loss_head(self) -> LossHead | None:
        head = self.get_output_embeddings()
        return head if isinstance(head, LossHead) else None

    def _forward(self, names: set[str], args: tuple, targets: Tensor | None, kwargs: dict[str, Any]) -> Any:
        given = dict(kwargs)
        if targets is not None:
            given["labels"] = targets
            if self.shifts_labels:
                given["shift_labels"] = targets
        labels, shifted = given.get("labels"), given.get("shift_labels")
        if labels is not None and "use_cache" in names:
            given.setdefault("use_cache", False)
        head = self._loss_head() if labels is not None and self.shifts_labels else None
        if head is not None:
            head.targets = following(labels) if shifted is None else shifted
        try:
            with one_sequence_a_row(given.get("position_ids") is None and not args[2:]):
                outputs = super().forward(*args, **given)
        finally:
            if head is not None:
                head.targets = head.loss = None
        return outputs if targets is None else outputs.loss


@cache
def trained(kind: type[nn.Module]) -> type[nn.Module]:
    """The class `kind` of `transformers` with `Trained` mixed in, under its own name and with its own signature."""
    original = inspect.signature(kind.forward)
    names = set(original.parameters)

    def forward(self: Any, *args: Any, targets: torch.Tensor | None = None, **kwargs: Any) -> Any:
        return self._forward(names, args, targets, kwargs)

    own = inspect.Parameter("targets", inspect.Parameter.KEYWORD_ONLY, default=None)
    *others, last = original.parameters.values()
    ends = [own, last] if last.kind is last.VAR_KEYWORD else [last, own]
    forward.__signature__ = original.replace(parameters=[*others, *ends])
    forward.__doc__ = kind.forward.__doc__
    inside = {"forward": forward, "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (Trained, kind), inside)
