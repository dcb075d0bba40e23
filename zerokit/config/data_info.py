"""What a data source tells about itself; models and checks read it without importing torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

IGNORED = -100
"""Target that stands for none: losses leave it out, as `torch.nn.functional.cross_entropy` does by default."""

TOKENS = ("tokens", "masked", "seq2seq")
"""Tasks whose targets are tokens."""


@dataclass(frozen=True)
class DataInfo:
    """Facts about a data source, fixed once it is built."""

    task: Literal["tokens", "masked", "seq2seq", "regression", "classification"]
    """What is learned: the next token, masked tokens where they stand, the tokens of another text, numbers, or a
    class."""
    seq_len: int | None
    """Tokens per sample, where it has any; those that are read (seq2seq)."""
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
    target_len: int | None = None
    """Tokens of the text that is written (seq2seq only)."""
    pad: int | None = None
    """Token that fills rows."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of their numbers, where they have names (classification only)."""

    @property
    def counted(self) -> str:
        """What throughput and the mean of the loss count: tokens, or samples where there are none."""
        return "tokens" if self.task in TOKENS else "samples"

    @property
    def sample_tokens(self) -> int:
        """Tokens of a sample, both texts of a pair; 1 where it has none."""
        return (self.seq_len or 1) + (self.target_len or 0)
