"""Bytes of Python's own standard library: real text that is always present."""

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.data._checks import check_tokens


@dataclass
class StdlibOptions:
    seq_len: int = 256
    """Tokens (bytes) per sample."""
    held_out_percent: int = 5
    """Share of the files kept for validation, in percent; chosen by a hash of the file's name."""

    def __post_init__(self) -> None:
        check_tokens(self.seq_len, self.held_out_percent)


register("data", "stdlib", StdlibOptions, "zerokit.data._corpus:build_stdlib")
