"""8-bit numbers for values in [-1, 1] or [0, 1]: the dynamic tree of Dettmers et al., "8-bit Optimizers via Block-wise
Quantization", 2022, section 2.1 and figure 2. Some bits count decades below 1, the others divide a decade evenly."""

from __future__ import annotations

DECADES = 7


def code_values(signed: bool) -> list[float]:
    """The 256 values in ascending order; 0 and 1 are among them, and with signs the negatives of most."""
    bits = 7 if signed else 8
    values = [0.0, 1.0]
    for decade in range(DECADES):
        count = 2 ** (decade + bits - DECADES)
        scale = 10.0 ** (decade - DECADES + 1)
        middles = [scale * (0.1 + 0.9 * (i + 0.5) / count) for i in range(count)]
        values += middles + ([-m for m in middles] if signed else [])
    return sorted(values)
