"""What a data source tells about itself; models and checks read it without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

IGNORED = -100
"""Target that stands for none: losses leave it out, as `torch.nn.functional.cross_entropy` does by default."""


@dataclass(frozen=True)
class DataInfo:
    """Facts about a data source, fixed once it is built."""

    task: Literal["tokens", "masked", "regression", "classification"]
    """What is learned: the next token, masked tokens where they stand, numbers, or a class."""
    seq_len: int | None
    """Tokens per sample (tokens only)."""
    vocab_size: int | None
    """Number of different tokens (tokens only)."""
    in_features: int | None
    """Numbers per input sample (regression and classification)."""
    out_features: int | None
    """Numbers per target (regression) or classes (classification)."""
    sha256: str
    """Hash of the content, so that two runs can be compared."""
    description: str
    """One line for people."""
    bytes_per_token: float | None
    """Bytes of text per token, to convert loss to bits per byte (tokens only)."""

    @property
    def counted(self) -> str:
        """What throughput and the mean of the loss count: tokens, or samples where there are none."""
        return "tokens" if self.task in ("tokens", "masked") else "samples"
