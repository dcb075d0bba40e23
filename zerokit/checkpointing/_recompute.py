"""Recompute instead of keep: torch's own non-reentrant checkpoints, around every block or some."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from zerokit.checkpointing._replay import may_change, replayed

# Products and attention take nearly all the time of a block; the overloads differ by device and kernel.
KEPT_NAMES = (
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "_scaled_mm",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math",
)
KEPT = frozenset(getattr(torch.ops.aten, name).default for name in KEPT_NAMES if hasattr(torch.ops.aten, name))


class Recompute:
    """Checkpoints every block.

    The state of the random number generators is restored for the recomputation, so dropout repeats itself.
    """

    def __init__(self, policy: Callable | None = None) -> None:
        # Dynamo takes no context_fn but a partial: without a policy none is passed.
        self._options = {"context_fn": partial(create_selective_checkpoint_contexts, policy)} if policy else {}

    def wrap(self, forward: Callable, index: int) -> Callable:
        """`forward`, recomputed in backward."""
        options = self._options

        def checkpointed(*args, **kwargs):
            if any(may_change(value) for value in (*args, *kwargs.values())):
                return replayed(forward, args, kwargs, options)
            count, names = len(args), tuple(kwargs)

            def run(*values):  # named tensors go by place, where a checkpoint notices that they are changed in place
                return forward(*values[:count], **dict(zip(names, values[count:], strict=True)))

            return checkpoint(run, *args, *kwargs.values(), use_reentrant=False, **options)

        return checkpointed


class KeepAll:
    """No checkpointing."""

    def wrap(self, forward: Callable, index: int) -> Callable:
        """`forward` itself."""
        return forward


class EveryK:
    """Recomputes blocks 0, k, 2k, …; `others` are the checkpoints of those in between."""

    def __init__(self, k: int, others: KeepAll | Recompute) -> None:
        self.k, self.full, self.others = k, Recompute(), others

    def wrap(self, forward: Callable, index: int) -> Callable:
        """`forward` of block `index`, as it is this block's turn."""
        return (self.others if index % self.k else self.full).wrap(forward, index)


def keep_products(context, operation, *args, **kwargs) -> CheckpointPolicy:
    """Policy of `selective`: keep what `KEPT` lists, recompute everything else."""
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def build_none(options) -> KeepAll:
    """Keeps all activations."""
    return KeepAll()


def build_full(options) -> Recompute:
    """Recomputes every block."""
    return Recompute()


def build_selective(options) -> Recompute:
    """Recomputes what is cheap in every block."""
    return Recompute(keep_products)


def build_every_k(options) -> EveryK:
    """Recomputes every k-th block, and what is asked of the others."""
    return EveryK(options.k, {"none": build_none, "selective": build_selective}[options.others](None))
