"""What an estimate says about one rank's training step."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

GIB = 1 << 30
ALL_REDUCES = ("all_reduce", "outer_all_reduce", "norm", "optimizer")
"""Kinds of traffic that are sums over the ranks: of gradients, of their norm, of what an optimizer adds up."""


INSIDE = ("all_gather", "reduce_scatter", "all_reduce", "row_reads", "row_sums")
"""Kinds of traffic inside a group of ranks; what begins with "outer" travels between groups."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """One configuration on `world` ranks of one kind of hardware.

    memory: bytes by kind at the peak, which they add up to; storage: of the engine, as `Engine.memory` counts it.
    peer_bytes: of the peak, what lies outside torch's allocator. calls, traffic: of one step of rank 0, by kind, and
    the bytes of their whole buffers; where the training ends with compressed steps, of such a one. busy: seconds of
    one step by what they are spent on; seconds: of one step, None without a hardware entry. recordable: whether a CUDA
    graph can be made of the step. group: ranks that divide weights and gradients among them.
    """

    world: int
    stage: int
    precision: str
    checkpointing: str
    micro: int
    accumulation: int
    tokens_per_step: int
    parameters: int
    memory: dict[str, int]
    storage: dict[str, int]
    peer_bytes: int
    calls: dict[str, int]
    traffic: dict[str, int]
    busy: dict[str, float]
    seconds: float
    recordable: bool
    group: int

    @property
    def peak(self) -> int:
        """Bytes at the peak."""
        return sum(self.memory.values())

    @property
    def predicted_gib(self) -> float:
        """The peak in GiB."""
        return self.peak / GIB

    @property
    def tokens_per_sec(self) -> float:
        """Tokens (or samples) of all ranks per second."""
        return self.tokens_per_step / self.seconds

    @property
    def sent_bytes(self) -> float:
        """Bytes that leave a rank in one step, by rings: an all-reduce goes around twice."""
        counts = self.traffic.items()
        return sum(count * self._share(kind) * (2 if kind in ALL_REDUCES else 1) for kind, count in counts)

    def _share(self, kind: str) -> float:
        """The part of a buffer that a rank has to send on."""
        ranks = self.world // self.group if kind.startswith("outer") else self.group if kind in INSIDE else self.world
        return (ranks - 1) / ranks

    def bound(self) -> tuple[str, float]:
        """What takes most of the step, and its share; the host takes all of it where the device waits for it."""
        if self.busy["issuing kernels"] > 0:
            return "issuing kernels", 1.0
        kind = max(self.busy, key=self.busy.get)
        return kind, self.busy[kind] / max(self.seconds, 1e-12)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the peak and the throughput."""
        return asdict(self) | {"peak": self.peak, "tokens_per_sec": self.tokens_per_sec}
