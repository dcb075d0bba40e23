"""Seeded random data with a structure that can be learned: for tests, benchmarks and first steps."""

from dataclasses import dataclass
from typing import Literal

from zerokit.config.registry import register


@dataclass
class SyntheticOptions:
    task: Literal["tokens", "regression", "classification"] = "tokens"
    """Arithmetic progressions with noise, or numbers or classes from a fixed linear map."""
    samples: int = 4096
    """Training samples in one epoch."""
    held_out: int = 256
    """Samples kept for validation."""
    seq_len: int = 256
    """Tokens per sample (tokens)."""
    vocab_size: int = 256
    """Number of different tokens (tokens)."""
    in_features: int = 10
    """Length of an input vector (regression, classification)."""
    out_features: int = 1
    """Length of a target vector (regression) or number of classes, at least 2 (classification)."""
    noise: float = 0.1
    """Share of random tokens, or standard deviation of what is added to the targets."""

    def __post_init__(self) -> None:
        for key in ("samples", "held_out", "seq_len", "vocab_size", "in_features", "out_features"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: expected at least 1; got {getattr(self, key)}.")
        if self.task == "classification" and self.out_features < 2:
            raise ValueError(f"out_features: classification needs at least 2 classes; got {self.out_features}.")
        if self.noise < 0:
            raise ValueError(f"noise: expected at least 0; got {self.noise}.")


register("data", "synthetic", SyntheticOptions, "zerokit.data._synthetic:build")
