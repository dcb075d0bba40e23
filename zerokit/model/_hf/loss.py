"""The loss of causal models from hidden states, so that the logits of all tokens never exist at once.

[Note: where the loss is made] The output layer, which is the last that sees hidden states, is told the targets before
a forward pass, and returns the loss in place of logits; the model hands these to its `loss_function`, which here
returns them as they are. So whatever the model does before and after stays its own (auxiliary losses of experts, for
one), and the layer's weights are used where they are gathered. A model that changes its logits on the way (Gemma 2 caps
them) hands over another tensor than the layer returned: it keeps its own loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zerokit.config.data_info import IGNORED
from zerokit.model._linear_cross_entropy import linear_cross_entropy


class LogitsChanged(RuntimeError):
    """The logits are not those of the output layer."""


class LossHead(nn.Linear):
    """An output layer without bias: hidden states (…, D) → logits (…, V), or while it has `targets`, the loss (0-dim).

    targets: (…) int64, each that of the hidden state at its place. chunk: tokens whose logits exist at a time.
    """

    compiles = False
    chunk: int
    targets: Tensor | None = None
    loss: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        if self.targets is None:
            return super().forward(hidden)
        loss = linear_cross_entropy(hidden.flatten(0, -2), self.weight, self.targets.flatten(), self.chunk)
        self.loss = loss
        return loss

    def handed_over(self, logits: Tensor, *_: object, **__: object) -> Tensor:
        """What a model takes for its loss function: the loss that this layer made."""
        if logits is not self.loss:
            raise LogitsChanged("The model changes its logits after the output layer: set model.loss=transformers.")
        return logits


def make_loss_head(model: nn.Module, chunk: int) -> bool:
    """Let the output layer of a causal model on the meta device make the loss; whether it can."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None:
        return False
    head.__class__, head.chunk = LossHead, chunk
    tokens = torch.zeros(1, 2, dtype=torch.int64, device="meta")
    try:
        with torch.no_grad(), _without_blocks(model):
            model(input_ids=tokens, labels=tokens)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, IndexError):
        head.__class__ = nn.Linear  # whatever the model does with its logits, it is not what is known here
        return False
    return True


@contextmanager
def _without_blocks(model: nn.Module) -> Iterator[None]:
    """Empty the model's lists for the time of the block: what lies between embeddings and output layer."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    kept = [module._modules for module in lists]
    for module in lists:
        module._modules = {}
    try:
        yield
    finally:
        for module, modules in zip(lists, kept, strict=True):
            module._modules = modules


def following(labels: Tensor) -> Tensor:
    """Targets (B, T) at the places before those of `labels` (B, T); the last place has none."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORED)
