"""Memory that the other GPUs of a host reach directly: transfers by copy engines, which take no SM from the compute."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod

import torch
import torch.distributed as dist
from torch import Tensor

from zerokit.comm.mesh import Mesh

log = logging.getLogger(__name__)


class PeerMemory(ABC):
    """One flat buffer of the same size on every rank, and views of the others' buffers.

    local: (elements,) of this rank, zero at first. peers[r]: the buffer of rank r, as this rank reaches it.
    """

    def __init__(self, local: Tensor, peers: list[Tensor], rank: int):
        self.local, self.peers, self.rank, self.nbytes = local, peers, rank, local.nbytes
        local.zero_()
        self.barrier()  # or the zeros of a slow rank would fall on what a fast one has already sent

    @abstractmethod
    def barrier(self) -> None:
        """Work that follows on the current stream of any rank starts after what precedes it on those of all ranks."""

    def holds(self, tensor: Tensor) -> bool:
        """Whether `tensor` is a view of this rank's buffer."""
        return tensor.untyped_storage().data_ptr() == self.local.untyped_storage().data_ptr()

    def all_gather(self, full: Tensor, shard: Tensor) -> None:
        """Copy every rank's part into `full` (world × n,); `shard` (n,) is this rank's, in `local` or in `full`."""
        count = shard.numel()
        inside = self.holds(full)
        first = full.storage_offset() if inside else shard.storage_offset()
        for step in range(len(self.peers)):
            source = (self.rank + 1 + step) % len(self.peers)
            if inside and source == self.rank:
                continue
            start = first + source * count if inside else first
            full[source * count : (source + 1) * count].copy_(self.peers[source][start : start + count])


class SymmetricMemory(PeerMemory):
    """Peer memory between GPUs, by torch's symmetric memory.

    It does not come from torch's caching allocator, whose statistics therefore do not count `nbytes`.
    """

    def __init__(self, elements: int, dtype: torch.dtype, device: torch.device, group: dist.ProcessGroup, channel: int):
        import torch.distributed._symmetric_memory as symmetric

        local = symmetric.empty(elements, dtype=dtype, device=device)
        self._handle = symmetric.rendezvous(local, group)
        # Buffers may share the pad of signals that barriers use; one channel each keeps their barriers apart.
        self._channel = channel
        peers = [self._handle.get_buffer(r, (elements,), dtype) for r in range(self._handle.world_size)]
        super().__init__(local, peers, self._handle.rank)

    def barrier(self) -> None:
        self._handle.barrier(channel=self._channel)


def share(
    elements: int,
    dtype: torch.dtype,
    device: torch.device,
    mesh: Mesh,
    group: dist.ProcessGroup | None,
    everybody: dist.ProcessGroup | None,
    channel: int,
) -> PeerMemory | None:
    """Peer memory of the ranks along the innermost axis, where all of them are GPUs of one host that reach each other;
    else None, with one line in the log. group: those ranks; everybody: all."""
    inner = mesh.innermost
    size = mesh.sizes[inner]
    first = device.index - mesh.coordinate(inner)
    reason = None
    if int(os.environ.get("LOCAL_WORLD_SIZE", mesh.world)) % size:
        reason = "the ranks are on several hosts"
    elif not 0 <= first <= torch.cuda.device_count() - size:
        reason = "each process sees its own GPU only"
    elif not all(torch.cuda.can_device_access_peer(device.index, d) for d in range(first, first + size)
                 if d != device.index):  # fmt: skip
        reason = "the GPUs cannot read each other's memory"
    able = torch.tensor(int(reason is None), device=device)
    dist.all_reduce(able, dist.ReduceOp.MIN, group=everybody)  # all or none, or the others would wait for this rank
    if reason is None and not able:
        reason = "another rank cannot"
    if reason is None:
        try:
            return SymmetricMemory(elements, dtype, device, group or dist.group.WORLD, channel)
        except (RuntimeError, ImportError) as error:
            reason = str(error).splitlines()[0]
    log.warning("zero.transport=peer is not possible here (%s); using NCCL.", reason)
    return None
