"""Cross-entropy of a linear layer, chunk by chunk, so that the logits of all tokens never exist at once.

The gradient of a chunk's logits takes their place in memory: at 128k words they are the largest tensor of a step.

[Note: where the gradient is computed]
One chunk: backward multiplies the gradient of the logits, which is as large as that of the weight, and the upstream
factor goes into the hidden states, the smallest of the factors.
More, fp32 and bf16: in the forward pass, while a chunk's logits are still there; backward only scales. That costs no
extra matrix product and keeps no logits. The weight's gradient is accumulated in the weight's dtype: an fp32
accumulator would be the largest tensor alive at the peak of memory (2.1 GB for 128,256 × 4,096) and would be rounded
to bf16 in the end all the same.
fp16: (softmax - one-hot) / tokens lies below fp16's smallest number (6e-8), so the scale of the loss has to be
multiplied in before rounding, and it is known only in backward: the gradient of the logits is made there, of more than
one chunk from logits that are computed a second time.

[Note: not compiled]
A compiler turns sums in place (`addmm_`) into sums with a copy of the weight's gradient for each chunk.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._triton import has_triton

from zerokit.config.data_info import IGNORED

log = logging.getLogger(__name__)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int = 2048) -> Tensor:
    """Mean of `F.cross_entropy(F.linear(hidden, weight), targets)`: 0-dim, fp32, in nats; 0 if no target is counted.

    hidden (N, D) and weight (V, D) of one dtype, in which the matrix products run; targets (N,) int64, each in
    [0, V) or `IGNORED`, which is not counted; the softmax is computed in fp32; `chunk` tokens at a time. Not
    differentiable twice.
    """
    if targets.is_cuda:  # elsewhere an index out of range is an error by itself
        inside = (targets >= 0) & (targets < len(weight)) | (targets == IGNORED)
        torch._assert_async(inside.all(), "a target is outside the vocabulary")
    if not torch.is_grad_enabled() or not (hidden.requires_grad or weight.requires_grad):
        return _loss(hidden, weight, targets, chunk)
    several = _RecomputeInBackward if _underflows(hidden) else _GradientInForward
    function = several if len(hidden) > chunk else _GradientInBackward
    return function.apply(hidden, weight, targets, chunk)


@torch.library.custom_op("zerokit::softmax_gradient", mutates_args=("logits",))
def softmax_gradient(logits: Tensor, targets: Tensor, scale: Tensor | None) -> Tensor:
    """The losses (N,) in fp32 of `logits` (N, V), which become their gradients: (softmax - one-hot) · scale.

    Both are 0 where the target is `IGNORED`. scale: 0-dim, fp32; None leaves the logits alone.
    """
    assert logits.is_contiguous()
    if logits.is_cuda and (kernel := _kernel()) is not None:
        losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        kernel.softmax_gradient[(len(logits),)](
            logits, targets, losses, scale, logits.shape[1], scale is not None, IGNORED, kernel.COLUMNS,
            num_warps=kernel.WARPS,
        )  # fmt: skip
        return losses
    counted = (targets != IGNORED)[:, None]
    index = targets[:, None] * counted
    log_p = F.log_softmax(logits, dim=-1, dtype=torch.float32)
    losses = -log_p.gather(1, index).where(counted, 0.0).squeeze(1)
    if scale is not None:
        gradient = log_p.exp_()
        gradient.scatter_add_(1, index, gradient.new_full((len(targets), 1), -1.0))
        logits.copy_(gradient.mul_(counted * scale))
    return losses


@cache
def _kernel() -> ModuleType | None:
    """The module of the GPU's kernel; None, with a warning, where Triton cannot make it."""
    if has_triton():
        from zerokit.model import _softmax_kernel

        return _softmax_kernel
    log.warning("The loss takes torch's operations: Triton is not installed, or cannot compile for this GPU.")
    return None


@softmax_gradient.register_fake
def _(logits: Tensor, targets: Tensor, scale: Tensor | None) -> Tensor:
    return logits.new_empty(len(logits), dtype=torch.float32)


def _chunks(hidden: Tensor, targets: Tensor, size: int) -> zip:
    return zip(hidden.split(size), targets.split(size), strict=True)


def _count(targets: Tensor) -> Tensor:
    """How many targets the mean is over, at least 1 (0-dim)."""
    return (targets != IGNORED).sum().clamp(min=1)


def _mean(losses: Sequence[Tensor], count: Tensor) -> Tensor:
    return torch.stack([loss.sum() for loss in losses]).sum() / count


def _loss(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """The mean loss alone."""
    losses = [softmax_gradient(F.linear(h, weight), t, None) for h, t in _chunks(hidden, targets, chunk)]
    return _mean(losses, _count(targets))


def _gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, scale: Tensor, needed: Sequence[bool]
) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    """The losses of each chunk, and the gradients of hidden states and weight times `scale`; None where not needed."""
    of_hidden = torch.empty_like(hidden) if needed[0] else None
    of_weight, losses, start = None, [], 0
    for h, t in _chunks(hidden, targets, chunk):
        logits = F.linear(h, weight)
        losses.append(softmax_gradient(logits, t, scale))
        if needed[0]:
            torch.mm(logits, weight, out=of_hidden[start : start + len(h)])
        if of_weight is not None:
            of_weight.addmm_(logits.T, h)
        elif needed[1]:
            of_weight = logits.T @ h
        start += len(h)
        del logits  # before the next ones are made
    return losses, of_hidden, of_weight


def _underflows(hidden: Tensor) -> bool:
    """Whether gradients of the logits need the scale of the loss."""
    return hidden.dtype == torch.float16


class _GradientInBackward(torch.autograd.Function):
    """One chunk."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        logits, count = F.linear(hidden, weight), _count(targets)
        losses = softmax_gradient(logits, targets, None if _underflows(hidden) else count.reciprocal())
        ctx.save_for_backward(hidden, weight, targets, logits)
        return losses.sum() / count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple:
        hidden, weight, targets, of_logits = ctx.saved_tensors
        if _underflows(hidden):
            softmax_gradient(of_logits, targets, upstream.float() / _count(targets))
            upstream = torch.ones_like(upstream)
        of_hidden = (of_logits @ weight) * upstream if ctx.needs_input_grad[0] else None
        of_weight = of_logits.T @ (hidden * upstream) if ctx.needs_input_grad[1] else None
        return of_hidden, of_weight, None, None


class _GradientInForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        count = _count(targets)
        losses, *gradients = _gradients(hidden, weight, targets, chunk, count.reciprocal(), ctx.needs_input_grad)
        ctx.save_for_backward(*gradients)
        return _mean(losses, count)

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
        return _loss(hidden, weight, targets, chunk)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple:
        hidden, weight, targets = ctx.saved_tensors
        scale = upstream.float() / _count(targets)
        _, *gradients = _gradients(hidden, weight, targets, ctx.chunk, scale, ctx.needs_input_grad)
        return *gradients, None, None
