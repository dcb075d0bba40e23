"""Facts about data that no test needs to have."""

from __future__ import annotations

from zerokit.config.data_info import DataInfo


def token_info(seq_len: int, vocab_size: int) -> DataInfo:
    """A source of tokens, one byte each."""
    return DataInfo(
        task="tokens",
        seq_len=seq_len,
        vocab_size=vocab_size,
        in_features=None,
        out_features=None,
        sha256="",
        description="",
        bytes_per_token=1.0,
    )
