"""The global norm of the gradients and what follows from it, all on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from zerokit.comm import Communicator
from zerokit.zero.placement import evenly
from zerokit.zero.storage import Storage
from zerokit.zero.unit import Unit


class GradientNorm:
    """L2 norm over all trainable parameters, from the shard of each unit that belongs to this rank.

    Units are added one by one while backward goes on. Every stage sums the same shards in the same order, also where
    gradients are whole on every rank: so the stages clip by bit-identical coefficients, and a replicated gradient is
    read once instead of once per rank.

    local: gradients stay apart, so their sum has no norm yet; take the root mean square over the ranks of their norms,
    which bounds it from above (as the square is convex).
    """

    def __init__(self, storage: Storage, comm: Communicator):
        units, mesh = storage.trainable, comm.mesh
        self._shards = {u: u.gradient.at(u.layout.held(evenly(mesh), mesh)) for u in units}
        self._norms = torch.zeros(len(units), dtype=torch.float32, device=comm.device)
        self._places = dict(zip(units, self._norms.unbind(), strict=True))
        self._comm = comm
        self.local = False

    def add(self, unit: Unit) -> None:
        """Take the norm of a unit whose gradients are complete, on the current stream."""
        values = unit.gradient.values if self.local else self._shards[unit]
        torch.linalg.vector_norm(values, out=self._places[unit], dtype=torch.float32)

    def __call__(self, *counts: Tensor) -> tuple[Tensor, ...]:
        """The norm of all units, each of which was added: 0-dim float64; infinite or NaN if any rank's gradient is. And
        the sums over the ranks of `counts` (0-dim or (n,) float64).

        One all-reduce of 8 bytes for each number.
        """
        sizes = [count.numel() for count in counts]
        own = self._norms.double().square().sum()
        sums = torch.cat([own.view(1), *(count.view(-1) for count in counts)])
        self._comm.all_reduce(sums, kind="norm")
        total, *summed = sums.split([1, *sizes])
        # Each rank's part of the mean is 1 / world of its own gradient.
        norm = (total * self._comm.world if self.local else total).sqrt().view(())
        return norm, *(values.view(count.shape) for values, count in zip(summed, counts, strict=True))


def clip_coefficient(norm: Tensor, clip_norm: float | None) -> Tensor:
    """What gradients of global norm `norm` are multiplied with so that it becomes at most `clip_norm` (0-dim)."""
    if clip_norm is None:
        return torch.ones_like(norm)
    return (clip_norm / (norm + 1e-6)).clamp(max=1.0)
