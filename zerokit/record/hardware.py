"""Devices: one table of what their datasheets say and, where it has been measured, what runs reach. Imports no torch.

MFU (model FLOPs utilisation; Chowdhery et al. 2022, PaLM, appendix B) is what the model's own arithmetic reaches of the
datasheet's peak: tokens per second and GPU × FLOPs per token / peak. Recomputed activations do not count, so
recomputing lowers it. Estimates reckon with what large products, copies and collectives reach in fact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from zerokit.config.errors import ConfigError, suggestion

GIB = 1 << 30
MIB = 1 << 20


@dataclass(frozen=True)
class Peak:
    """Dense TFLOP/s of one device (half of what is advertised with sparsity), sums in fp32.

    half: bf16 and fp16. tf32: fp32 operands rounded to TF32. single: fp32. source: where the figures are printed.
    """

    half: float
    tf32: float
    single: float
    source: str

    def of(self, dtype: str, tf32: bool = False) -> float:
        """The peak for matrix products of a format: "bfloat16", "float16" or "float32" (with TF32 allowed or not)."""
        return self.half if dtype in ("bfloat16", "float16") else self.tf32 if tf32 else self.single


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
    """What estimates reckon with: what one kind of device reaches, and how such devices are linked.

    name: for `estimate.hardware`. device: "cuda" or "cpu". memory: bytes. flops: reached by large matrix products, by
    format, per second. units: the parts (SMs) that tiles of a product are spread over. bandwidth: bytes/s of
    elementwise kernels, reads plus writes.
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


@dataclass(frozen=True)
class Device:
    """A row: peak, by the datasheet, and what is reached; None where that is not known."""

    peak: Peak | None
    reached: Hardware | None = None


_NETWORK = "network: 400 Gb/s InfiniBand per GPU (NVIDIA DGX H100 datasheet), 90 % of it"

_H200 = Hardware(
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
)
_H100 = Hardware(
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
)
_A100 = Hardware(
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
)
_CPU = Hardware(
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
)

_A100_SHEET = "NVIDIA A100 datasheet"
_AMPERE_SHEET = "NVIDIA Ampere GA102 white paper"
_ADA_SHEET = "NVIDIA Ada white paper"
_HOPPER_SHEET = "NVIDIA H100 datasheet"
_BLACKWELL_SHEET = "NVIDIA Blackwell datasheet"
_CDNA3_SHEET = "AMD Instinct MI300X and MI325X datasheets"

DEVICES: dict[str, Device] = {
    # The first pattern that is found in the name that the driver gives counts, so the narrower ones stand first.
    r"GB200": Device(Peak(2500.0, 1250.0, 80.0, "NVIDIA GB200 NVL72 datasheet")),
    r"B200": Device(Peak(2250.0, 1125.0, 75.0, _BLACKWELL_SHEET)),
    r"B100": Device(Peak(1750.0, 875.0, 60.0, _BLACKWELL_SHEET)),
    r"GH200": Device(Peak(989.4, 494.7, 66.9, "NVIDIA GH200 datasheet"), _H200),
    r"H200 NVL": Device(Peak(835.5, 417.5, 60.0, "NVIDIA H200 datasheet"), _H200),
    r"H200": Device(Peak(989.4, 494.7, 66.9, "NVIDIA H200 datasheet"), _H200),
    r"H100 NVL": Device(Peak(835.5, 417.5, 60.0, _HOPPER_SHEET), _H100),
    r"H[18]00 PCIe|H100 80GB HBM2e": Device(Peak(756.5, 378.0, 51.2, _HOPPER_SHEET), _H100),
    r"H100|H800": Device(Peak(989.4, 494.7, 66.9, _HOPPER_SHEET), _H100),
    r"A100|A800": Device(Peak(312.0, 156.0, 19.5, _A100_SHEET), _A100),
    r"RTX A6000": Device(Peak(154.8, 77.4, 38.7, _AMPERE_SHEET)),
    r"A40": Device(Peak(149.7, 74.8, 37.4, "NVIDIA A40 datasheet")),
    r"A30": Device(Peak(165.0, 82.0, 10.3, "NVIDIA A30 datasheet")),
    r"A10G": Device(Peak(70.0, 35.0, 35.0, "NVIDIA A10G datasheet")),
    r"A10": Device(Peak(125.0, 62.5, 31.2, "NVIDIA A10 datasheet")),
    r"L40S": Device(Peak(362.0, 183.0, 91.6, "NVIDIA L40S datasheet")),
    r"L40": Device(Peak(181.0, 90.5, 90.5, "NVIDIA L40 datasheet")),
    r"L4": Device(Peak(121.0, 60.0, 30.3, "NVIDIA L4 datasheet")),
    r"RTX 6000 Ada": Device(Peak(364.2, 182.1, 91.1, _ADA_SHEET)),
    r"RTX 5090": Device(Peak(209.5, 104.8, 104.8, "NVIDIA RTX Blackwell white paper")),
    r"RTX 4090": Device(Peak(165.2, 82.6, 82.6, _ADA_SHEET)),
    r"RTX 4080": Device(Peak(97.5, 48.7, 48.7, _ADA_SHEET)),
    r"RTX 3090": Device(Peak(71.0, 35.6, 35.6, _AMPERE_SHEET)),
    r"MI355X": Device(Peak(2516.6, 157.3, 157.3, "AMD Instinct MI355X datasheet")),  # it has no TF32
    r"MI300X|MI325X": Device(Peak(1307.4, 653.7, 163.4, _CDNA3_SHEET)),
    r"MI250X": Device(Peak(191.5, 47.9, 47.9, "AMD Instinct MI250X datasheet")),  # a device is one of its two dies
    r"cpu": Device(None, _CPU),
}
"""By pattern of the device's name, as whole words. Variants with other clocks (laptops, D, Ti, Super) are not these."""

ENTRIES = {device.reached.name: device.reached for device in DEVICES.values() if device.reached is not None}
"""What estimates know, by name."""

VARIANT = re.compile(r"\bMIG\b|Laptop|Max-Q|\b(D|Ti|SUPER)$", re.IGNORECASE)


def find_device(name: str) -> Device | None:
    """The row of a device by the name that its driver gives, such as "NVIDIA H100 80GB HBM3"; None if it has none."""
    if VARIANT.search(name):
        return None
    return next((device for pattern, device in DEVICES.items() if re.search(rf"\b(?:{pattern})\b", name)), None)


def find_peak(name: str) -> Peak | None:
    """The peak of a device by the name that its driver gives; None if the table has none."""
    device = find_device(name)
    return None if device is None else device.peak


def most_like(name: str) -> Hardware:
    """What is reached by the device of that name, by its kind where it is a variant, else by an H100."""
    rows = (device.reached for pattern, device in DEVICES.items() if re.search(rf"\b(?:{pattern})\b", name))
    return next((reached for reached in rows if reached is not None), _H100)


def find_entry(name: str) -> Hardware:
    """What is reached, by the name of `estimate.hardware`.

    Raises:
        ConfigError: there is no such entry.
    """
    if name not in ENTRIES:
        known = (*ENTRIES, "measure")
        raise ConfigError(
            f"estimate.hardware={name}: there is no such entry.{suggestion(name, known, 'estimate.hardware=')} "
            f"Entries: {', '.join(known)}."
        )
    return ENTRIES[name]
