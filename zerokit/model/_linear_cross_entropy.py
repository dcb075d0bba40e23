"""Cross-entropy of a linear layer, chunk by chunk, so that the logits of all tokens never exist at once.

[Note: where the gradient is computed]
fp32 and bf16: in the forward pass, while a chunk's logits are still there; backward only scales. That costs no
extra matrix product and keeps no logits. The weight's gradient is accumulated in the weight's dtype: an fp32
accumulator would be the largest tensor alive at the peak of memory (2.1 GB for 128,256 × 4,096) and would be rounded
to bf16 in the end all the same.
fp16: (softmax - one-hot) / tokens lies below fp16's smallest number (6e-8), so the scale of the loss has to be
multiplied in before rounding, and it is known only in backward: the logits are computed a second time there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int = 2048) -> Tensor:
    """Mean of `F.cross_entropy(F.linear(hidden, weight), targets)`: 0-dim, fp32, in nats.

    hidden (N, D) and weight (V, D) of one dtype, in which the matrix products run; targets (N,) int64, each in
    [0, V); the softmax is computed in fp32; `chunk` tokens at a time. Not differentiable twice.
    """
    if not torch.is_grad_enabled() or not (hidden.requires_grad or weight.requires_grad):
        losses = [_chunk_loss(h, weight, t)[0] for h, t in _chunks(hidden, targets, chunk)]
        return torch.stack(losses).sum() / len(targets)
    function = _RecomputeInBackward if hidden.dtype == torch.float16 else _GradientInForward
    return function.apply(hidden, weight, targets, chunk)


def _chunks(hidden: Tensor, targets: Tensor, size: int) -> zip:
    return zip(hidden.split(size), targets.split(size), strict=True)


def _chunk_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the losses of one chunk, and its log-probabilities (N, V) in fp32."""
    log_p = F.log_softmax(F.linear(hidden, weight), dim=-1, dtype=torch.float32)
    return -log_p.gather(1, targets[:, None]).sum(), log_p


def _logits_gradient(log_p: Tensor, targets: Tensor, scale: Tensor | float, dtype: torch.dtype) -> Tensor:
    """(softmax - one-hot) · scale of one chunk; overwrites `log_p`."""
    gradient = log_p.exp_()
    gradient.scatter_add_(1, targets[:, None], gradient.new_full((len(targets), 1), -1.0))
    return gradient.mul_(scale).to(dtype)


class _Gradients:
    """Gradients of hidden states and weight, filled chunk by chunk; None where not needed."""

    def __init__(self, hidden: Tensor, weight: Tensor, needed: tuple[bool, ...]) -> None:
        self.weight_value = weight
        self.hidden = torch.empty_like(hidden) if needed[0] else None
        self.weight = torch.zeros_like(weight) if needed[1] else None

    def add(self, start: int, hidden: Tensor, of_logits: Tensor) -> None:
        if self.hidden is not None:
            self.hidden[start : start + len(hidden)] = of_logits @ self.weight_value
        if self.weight is not None:
            self.weight.addmm_(of_logits.T, hidden)


class _GradientInForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        gradients = _Gradients(hidden, weight, ctx.needs_input_grad)
        loss = hidden.new_zeros((), dtype=torch.float32)
        for i, (h, t) in enumerate(_chunks(hidden, targets, chunk)):
            chunk_loss, log_p = _chunk_loss(h, weight, t)
            loss += chunk_loss
            gradients.add(i * chunk, h, _logits_gradient(log_p, t, 1 / len(targets), weight.dtype))
        ctx.save_for_backward(gradients.hidden, gradients.weight)
        return loss / len(targets)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple:
        # In place, since at 128k words a copy costs a gigabyte; autograd refuses a second backward by itself.
        return *(None if g is None else g.mul_(upstream) for g in ctx.saved_tensors), None, None


class _RecomputeInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.chunk = chunk
        losses = [_chunk_loss(h, weight, t)[0] for h, t in _chunks(hidden, targets, chunk)]
        return torch.stack(losses).sum() / len(targets)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple:
        hidden, weight, targets = ctx.saved_tensors
        gradients = _Gradients(hidden, weight, ctx.needs_input_grad)
        for i, (h, t) in enumerate(_chunks(hidden, targets, ctx.chunk)):
            log_p = _chunk_loss(h, weight, t)[1]
            gradients.add(i * ctx.chunk, h, _logits_gradient(log_p, t, upstream / len(targets), weight.dtype))
        return gradients.hidden, gradients.weight, None, None
