"""One rank of many, alone in this process: collectives take time on a clock and move nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from zerokit.comm import Communicator
from zerokit.comm.mesh import make_mesh
from zerokit.comm.peer import PeerMemory
from zerokit.comm.pinned import Host, HostMemory
from zerokit.config.errors import ConfigError
from zerokit.estimate.clock import Clock, Lane
from zerokit.estimate.ledger import Ledger
from zerokit.record.hardware import Hardware

META = torch.device("meta")


class DryCommunicator(Communicator):
    """Rank 0 of `world` ranks on the meta device, with the streams of a clock and the links of a hardware entry."""

    def __init__(self, world: int, hardware: Hardware, clock: Clock, ledger: Ledger, shard_size: int | None = None):
        super().__init__(META)
        self.mesh = make_mesh(world, 0, shard_size)
        self.compute = clock.compute
        self.gathers, self.reductions, self.updates = (Lane(clock, n) for n in ("gathers", "reductions", "updates"))
        self._outer = Lane(clock, "outer") if shard_size else None
        self.fetches, self.returns = Lane(clock, "fetches"), Lane(clock, "returns")
        self.host = DryHost(ledger)
        self.memories: list[DryPeer] = []
        self._hardware, self._clock, self._ledger = hardware, clock, ledger

    def peer_memory(self, elements: int, dtype: torch.dtype) -> PeerMemory | None:
        """Memory that the ranks along the innermost axis reach, where the hardware can."""
        size = self.mesh.sizes[self.mesh.innermost]
        if size == 1 or self._hardware.peer is None or not self._in_host(self.mesh.innermost):
            return None
        memory = DryPeer(elements, dtype, size, self._hardware, self._clock, self._ledger)
        self.shared_bytes += memory.nbytes
        self.memories.append(memory)
        return memory

    def all_gather(self, full: Tensor, shard: Tensor, axis: int | None = None) -> None:
        """Takes the time of an all-gather."""
        self.count(self._kind("all_gather", axis), full.nbytes)
        if axis == self.mesh.innermost and self._peer is not None and self._peer.holds(shard):
            self._peer.all_gather(full, shard)
        else:
            self._ring(full.nbytes, 1, axis)

    def reduce_scatter(self, shard: Tensor, full: Tensor, axis: int | None = None) -> None:
        """Takes the time of a reduce-scatter."""
        self.count(self._kind("reduce_scatter", axis), full.nbytes)
        self._ring(full.nbytes, 1, axis)

    def all_to_all(self, result: Tensor, given: Tensor, taken_splits: list[int], given_splits: list[int]) -> None:
        """Takes the time of an exchange of parts."""
        if self.world > 1:
            self.count("all_to_all", given.nbytes)
            self._ring(max(given.nbytes, result.nbytes), 1)

    def all_reduce(self, tensor: Tensor, kind: str = "all_reduce", maximum: bool = False,
                   axis: int | None = None) -> None:  # fmt: skip
        """Takes the time of an all-reduce."""
        if self.world > 1:
            self.count(self._kind(kind, axis), tensor.nbytes)
            self._ring(tensor.nbytes, 2, axis)

    def broadcast(self, tensor: Tensor, source: int = 0) -> None:
        """Takes the time of a broadcast."""
        if self.world > 1:
            self.count("broadcast", tensor.nbytes)
            self._ring(tensor.nbytes, 1)

    def gather_row(self, row: list[float | Tensor]) -> list[list[float]]:
        """The row of every rank is that of rank 0."""
        return [[float(number) for number in row]] * self.world

    def _copy(self, target: Tensor, source: Tensor) -> None:
        """Takes the time of a copy to or from the host."""
        self._clock.transfer(self._hardware.host.seconds(source.nbytes), source.nbytes / self._hardware.bandwidth)

    def _in_host(self, axis: int | None) -> bool:
        """Whether the ranks along an axis, or all of them, are on one host."""
        reach = self.world if axis is None else self.mesh.stride(axis) * self.mesh.sizes[axis]
        return reach <= self._hardware.per_host

    def _ring(self, count: int, rounds: int, axis: int | None = None) -> None:
        """Time of `rounds` passes of a buffer around the ring, inside a host or through the network."""
        size = self.world if axis is None else self.mesh.sizes[axis]
        if size == 1:
            return
        link = self._hardware.group if self._in_host(axis) else self._hardware.network
        seconds = rounds * link.seconds(count * (size - 1) / size)
        self._clock.transfer(seconds, 2 * rounds * count / self._hardware.bandwidth)


def group_size(asked: int | str, world: int, per_host: int) -> int | None:
    """Ranks of a group, as `zero.shard_size` asks for them; fewer ranks than that are one group, None all of them."""
    if asked == "all":
        return None
    size = min(per_host if asked == "host" else int(asked), world)
    if world % size:
        raise ConfigError(f"zero.shard_size={asked}: {world} ranks cannot be divided into groups of {size}.")
    return size


class DryHost(Host):
    """Memory of the host, of which there is as much as one asks for; the device does not have it."""

    def __init__(self, ledger: Ledger):
        super().__init__(META)
        self._ledger = ledger

    def reserve(self, size: int, what: str) -> None:
        """There is room."""

    def memory(self, size: int) -> HostMemory:
        """Bytes (size,) that the ledger does not count."""
        made = HostMemory(size, META)
        self._ledger.hide(made.bytes)
        return made


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
