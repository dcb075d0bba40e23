"""Devices that estimates know: a table of figures and where they come from. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from zerokit.config.errors import ConfigError, suggestion

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True)
class Link:
    """A transfer of `n` bytes takes `latency + n / bandwidth` seconds; bandwidth in bytes/s per rank and direction."""

    bandwidth: float
    latency: float

    def seconds(self, count: float) -> float:
        """Time of a transfer of `count` bytes."""
        return self.latency + count / self.bandwidth


@dataclass(frozen=True)
class Hardware:
    """One kind of device and how such devices are linked.

    device: "cuda" or "cpu". memory: bytes. flops: reached by large matrix products, by format, per second. units: the
    parts (SMs) that tiles of a product are spread over. bandwidth: bytes/s of elementwise kernels, reads plus writes.
    launch: seconds the host takes to issue one small operation; overhead: seconds a kernel takes beside its work.
    group: collectives inside a host; network: between hosts; peer: copies into another device's memory, where possible;
    host: copies to and from pinned memory of the host.
    per_host: devices of one host. workspace: bytes that libraries take on first use.
    sources: where the figures come from.
    """

    name: str
    device: str
    memory: int
    flops: dict[str, float]
    units: int
    bandwidth: float
    group: Link
    network: Link
    peer: Link | None
    host: Link
    per_host: int
    launch: float
    overhead: float
    workspace: int = 0
    sources: tuple[str, ...] = field(default=())


_NETWORK = "network: 400 Gb/s InfiniBand per GPU (NVIDIA DGX H100 datasheet), 90 % of it"

TABLE = {
    hardware.name: hardware
    for hardware in (
        Hardware(
            "h200_nvlink",
            "cuda",
            memory=int(139.8 * GIB),
            flops={"bfloat16": 740e12, "float16": 740e12, "float32": 51e12},
            units=132,
            bandwidth=3.9e12,
            group=Link(275e9, 26e-6),
            network=Link(45e9, 40e-6),
            peer=Link(373e9, 12e-6),
            host=Link(50e9, 10e-6),
            per_host=8,
            launch=9e-6,
            overhead=2e-6,
            workspace=64 * MIB,
            sources=(
                "products, memory, NCCL, peer copies: measured on 2 x H200, torch 2.11; fp32 and launches on 2 x H100 "
                "(bench/README.md); "
                "989 TFLOP/s bf16, 67 fp32, 4.8 TB/s by NVIDIA's H200 datasheet",
                _NETWORK,
            ),
        ),
        Hardware(
            "h100_ib400",
            "cuda",
            memory=int(79.1 * GIB),
            flops={"bfloat16": 700e12, "float16": 700e12, "float32": 51e12},
            units=132,
            bandwidth=2.75e12,
            group=Link(275e9, 26e-6),
            network=Link(45e9, 40e-6),
            peer=Link(373e9, 12e-6),
            host=Link(50e9, 10e-6),
            per_host=8,
            launch=9e-6,
            overhead=2e-6,
            workspace=64 * MIB,
            sources=(
                "NVIDIA H100 SXM datasheet: 989 TFLOP/s bf16, 67 fp32, 3.35 TB/s, 80 GB, NVLink 450 GB/s each way; the "
                "shares of them that are reached are those measured on H200; fp32 and launches measured on 2 x H100",
                _NETWORK,
            ),
        ),
        Hardware(
            "a100",
            "cuda",
            memory=int(79.1 * GIB),
            flops={"bfloat16": 250e12, "float16": 250e12, "float32": 17e12},
            units=108,
            bandwidth=1.65e12,
            group=Link(225e9, 30e-6),
            network=Link(22e9, 40e-6),
            peer=Link(240e9, 12e-6),
            host=Link(24e9, 10e-6),
            per_host=8,
            launch=9e-6,
            overhead=3e-6,
            workspace=16 * MIB,
            sources=(
                "NVIDIA A100 80GB SXM datasheet: 312 TFLOP/s bf16, 19.5 fp32, 2.04 TB/s, NVLink 300 GB/s each way; "
                "80 % of them; launches as on a host of H100",
                "network: 200 Gb/s InfiniBand per GPU (NVIDIA DGX A100 datasheet), 90 % of it",
            ),
        ),
        Hardware(
            "cpu",
            "cpu",
            memory=16 * GIB,
            flops={"float32": 30e9, "bfloat16": 10e9, "float16": 5e9},
            units=1,
            bandwidth=8e9,
            group=Link(1e9, 1e-3),
            network=Link(1e9, 1e-3),
            peer=None,
            host=Link(8e9, 0.0),
            per_host=64,
            launch=0.0,
            overhead=10e-6,
            sources=(
                "one core of a server CPU with AVX2, and gloo over the loopback: orders of magnitude only; "
                "estimate.hardware=measure measures this machine",
            ),
        ),
    )
}


def find(name: str) -> Hardware:
    """The entry `name`, or this machine measured for `measure`.

    Raises:
        ConfigError: there is no such entry.
    """
    if name == "measure":
        from zerokit.estimate.measure import measure

        return measure()
    if name not in TABLE:
        known = (*TABLE, "measure")
        raise ConfigError(
            f"estimate.hardware={name}: there is no such entry.{suggestion(name, known, 'estimate.hardware=')} "
            f"Entries: {', '.join(known)}."
        )
    return TABLE[name]
