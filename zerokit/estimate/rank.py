"""One rank of many, alone in this process: collectives take time on a clock and move nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from zerokit.comm import Communicator
from zerokit.comm.peer import PeerMemory
from zerokit.estimate.clock import Clock, Lane
from zerokit.estimate.hardware import Hardware
from zerokit.estimate.ledger import Ledger

META = torch.device("meta")


class DryCommunicator(Communicator):
    """Rank 0 of `world` ranks on the meta device, with the streams of a clock and the links of a hardware entry."""

    def __init__(self, world: int, hardware: Hardware, clock: Clock, ledger: Ledger):
        super().__init__(META)
        self.world, self.rank = world, 0
        self.compute = clock.compute
        self.gathers, self.reductions, self.updates = (Lane(clock, n) for n in ("gathers", "reductions", "updates"))
        self.memories: list[DryPeer] = []
        self._hardware, self._clock, self._ledger = hardware, clock, ledger

    def peer_memory(self, elements: int, dtype: torch.dtype) -> PeerMemory | None:
        """Memory that all ranks of one host reach, where the hardware can."""
        if self.world == 1 or self._hardware.peer is None or self.world > self._hardware.per_host:
            return None
        memory = DryPeer(elements, dtype, self.world, self._hardware, self._clock, self._ledger)
        self.shared_bytes += memory.nbytes
        self.memories.append(memory)
        return memory

    def all_gather(self, full: Tensor, shard: Tensor) -> None:
        """Takes the time of an all-gather."""
        self.count("all_gather", full.nbytes)
        if self._peer is not None and self._peer.holds(shard):
            self._peer.all_gather(full, shard)
        else:
            self._ring(full.nbytes, 1)

    def reduce_scatter(self, shard: Tensor, full: Tensor) -> None:
        """Takes the time of a reduce-scatter."""
        self.count("reduce_scatter", full.nbytes)
        self._ring(full.nbytes, 1)

    def all_to_all(self, result: Tensor, given: Tensor, taken_splits: list[int], given_splits: list[int]) -> None:
        """Takes the time of an exchange of parts."""
        if self.world > 1:
            self.count("all_to_all", given.nbytes)
            self._ring(max(given.nbytes, result.nbytes), 1)

    def all_reduce(self, tensor: Tensor, kind: str = "all_reduce", maximum: bool = False) -> None:
        """Takes the time of an all-reduce."""
        if self.world > 1:
            self.count(kind, tensor.nbytes)
            self._ring(tensor.nbytes, 2)

    def broadcast(self, tensor: Tensor, source: int = 0) -> None:
        """Takes the time of a broadcast."""
        if self.world > 1:
            self.count("broadcast", tensor.nbytes)
            self._ring(tensor.nbytes, 1)

    def gather_row(self, row: list[float | Tensor]) -> list[list[float]]:
        """The row of every rank is that of rank 0."""
        return [[float(number) for number in row]] * self.world

    def _ring(self, count: int, rounds: int) -> None:
        """Time of `rounds` passes of a buffer around the ring, inside a host or through the network."""
        if self.world == 1:
            return
        inside = self.world <= self._hardware.per_host
        link = self._hardware.group if inside else self._hardware.network
        seconds = rounds * link.seconds(count * (self.world - 1) / self.world)
        self._clock.transfer(seconds, 2 * rounds * count / self._hardware.bandwidth)


class DryPeer(PeerMemory):
    """Peer memory of which this rank's own part is counted; what is written to the others takes time on the link."""

    def __init__(self, elements: int, dtype: torch.dtype, world: int, hardware: Hardware, clock: Clock, ledger: Ledger):
        self._clock, self._link, self._bandwidth = clock, hardware.peer, hardware.bandwidth
        local = torch.empty(elements, dtype=dtype, device=META)
        remote = torch.empty(elements, dtype=dtype, device=META)
        ledger.hide(remote)
        super().__init__(local, [local, *[remote] * (world - 1)], 0)

    def barrier(self) -> None:
        """Takes the latency of the link."""
        self._clock.transfer(self._link.latency, 0.0)

    def holds(self, tensor: Tensor) -> bool:
        """Whether `tensor` is a view of this rank's buffer (storages on the meta device have no address)."""
        return tensor.untyped_storage()._cdata == self.local.untyped_storage()._cdata

    def all_gather(self, full: Tensor, shard: Tensor) -> None:
        """Takes the time of the copies from the other ranks."""
        world = len(self.peers)
        seconds = (world - 1) * self._link.seconds(full.nbytes / world)
        self._clock.transfer(seconds, 2 * full.nbytes / self._bandwidth)
