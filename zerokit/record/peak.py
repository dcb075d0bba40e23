"""The arithmetic peak of a GPU, the denominator of MFU. From the vendors' papers, or from the option. Imports no torch.

MFU (model FLOPs utilisation; Chowdhery et al. 2022, PaLM, appendix B) is what the model's own arithmetic reaches of the
peak: tokens per second and GPU × FLOPs per token / peak. Recomputed activations do not count, so recomputing lowers it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

A100 = "NVIDIA A100 datasheet"
AMPERE = "NVIDIA Ampere GA102 white paper"
ADA = "NVIDIA Ada white paper"
HOPPER = "NVIDIA H100 datasheet"
BLACKWELL = "NVIDIA Blackwell datasheet"
CDNA3 = "AMD Instinct MI300X and MI325X datasheets"


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


PEAKS: dict[str, Peak] = {
    # The first pattern that is found in the name that the driver gives counts, so the narrower ones stand first.
    r"GB200": Peak(2500.0, 1250.0, 80.0, "NVIDIA GB200 NVL72 datasheet"),
    r"B200": Peak(2250.0, 1125.0, 75.0, BLACKWELL),
    r"B100": Peak(1750.0, 875.0, 60.0, BLACKWELL),
    r"GH200": Peak(989.4, 494.7, 66.9, "NVIDIA GH200 datasheet"),
    r"H200 NVL": Peak(835.5, 417.5, 60.0, "NVIDIA H200 datasheet"),
    r"H200": Peak(989.4, 494.7, 66.9, "NVIDIA H200 datasheet"),
    r"H100 NVL": Peak(835.5, 417.5, 60.0, HOPPER),
    r"H[18]00 PCIe|H100 80GB HBM2e": Peak(756.5, 378.0, 51.2, HOPPER),
    r"H100|H800": Peak(989.4, 494.7, 66.9, HOPPER),
    r"A100|A800": Peak(312.0, 156.0, 19.5, A100),
    r"RTX A6000": Peak(154.8, 77.4, 38.7, AMPERE),
    r"A40": Peak(149.7, 74.8, 37.4, "NVIDIA A40 datasheet"),
    r"A30": Peak(165.0, 82.0, 10.3, "NVIDIA A30 datasheet"),
    r"A10G": Peak(70.0, 35.0, 35.0, "NVIDIA A10G datasheet"),
    r"A10": Peak(125.0, 62.5, 31.2, "NVIDIA A10 datasheet"),
    r"L40S": Peak(362.0, 183.0, 91.6, "NVIDIA L40S datasheet"),
    r"L40": Peak(181.0, 90.5, 90.5, "NVIDIA L40 datasheet"),
    r"L4": Peak(121.0, 60.0, 30.3, "NVIDIA L4 datasheet"),
    r"RTX 6000 Ada": Peak(364.2, 182.1, 91.1, ADA),
    r"RTX 5090": Peak(209.5, 104.8, 104.8, "NVIDIA RTX Blackwell white paper"),
    r"RTX 4090": Peak(165.2, 82.6, 82.6, ADA),
    r"RTX 4080": Peak(97.5, 48.7, 48.7, ADA),
    r"RTX 3090": Peak(71.0, 35.6, 35.6, AMPERE),
    r"MI355X": Peak(2516.6, 157.3, 157.3, "AMD Instinct MI355X datasheet"),  # it has no TF32
    r"MI300X|MI325X": Peak(1307.4, 653.7, 163.4, CDNA3),
    r"MI250X": Peak(191.5, 47.9, 47.9, "AMD Instinct MI250X datasheet"),  # a device is one of its two dies
}
"""By pattern of the device's name, as whole words. Variants with other clocks (laptops, D, Ti, Super) are not these."""

VARIANT = re.compile(r"\bMIG\b|Laptop|Max-Q|\b(D|Ti|SUPER)$", re.IGNORECASE)


def find_peak(device_name: str) -> Peak | None:
    """The entry for a device by the name that torch gives, such as "NVIDIA H100 80GB HBM3"; None if it has none."""
    if VARIANT.search(device_name):
        return None
    return next((peak for name, peak in PEAKS.items() if re.search(rf"\b(?:{name})\b", device_name)), None)
