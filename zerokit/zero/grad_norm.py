"""The global norm of the gradients and what follows from it, all on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from zerokit.comm import Communicator
from zerokit.zero.placement import Placement
from zerokit.zero.storage import Storage


class GradientNorm:
    """L2 norm over all trainable parameters, from the shard of each unit that belongs to this rank.

    Every stage sums the same shards unit by unit in the same order, also where gradients are whole on every rank: so
    the stages clip by bit-identical coefficients, and a replicated gradient is read once instead of once per rank.
    """

    def __init__(self, storage: Storage, comm: Communicator):
        sharded = storage.stage.gradient is Placement.SHARD
        self._shards = [u.gradient if sharded else storage.own(u, u.gradient) for u in storage.trainable]
        self._comm = comm

    def __call__(self) -> Tensor:
        """The norm, 0-dim float64; infinite or NaN if any rank's gradient is. One all-reduce of 8 bytes."""
        if not self._shards:
            return torch.zeros((), dtype=torch.float64, device=self._comm.device)
        norms = torch.stack(torch._foreach_norm(self._shards, 2, dtype=torch.float32))
        total = norms.double().square().sum()
        self._comm.all_reduce(total, kind="norm")
        return total.sqrt()


def clip_coefficient(norm: Tensor, clip_norm: float | None) -> Tensor:
    """What gradients of global norm `norm` are multiplied with so that it becomes at most `clip_norm` (0-dim)."""
    if clip_norm is None:
        return torch.ones_like(norm)
    return (clip_norm / (norm + 1e-6)).clamp(max=1.0)
