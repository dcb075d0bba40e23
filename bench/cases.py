"""What is measured: model sizes and batches. Activation checkpointing is a system's option."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Case:
    """A decoder (untied) and the batch of one GPU in one optimizer step."""

    name: str
    dim: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    vocab_size: int
    micro: int
    """Sequences per forward pass."""
    seq_len: int
    accumulation: int = 1
    """Forward and backward passes per optimizer step."""
    gpus: int | None = None
    """Processes that the case is made for; None: as many as there are."""
    family: str = "llama"
    """"llama" or "gpt", which has as many key and value heads as query heads."""

    @property
    def tokens(self) -> int:
        """Tokens per GPU and optimizer step."""
        return self.micro * self.seq_len * self.accumulation

    def to_dict(self) -> dict:
        """The fields as plain values."""
        return asdict(self)


LLAMA_8B = {"dim": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "hidden": 14336, "vocab_size": 128256}
LLAMA_1_5B = {"dim": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "hidden": 8192, "vocab_size": 128256}
LLAMA_350M = {"dim": 1024, "layers": 24, "heads": 16, "kv_heads": 8, "hidden": 2816, "vocab_size": 32768}
GPT_1_3B = {"dim": 2048, "layers": 24, "heads": 16, "kv_heads": 16, "hidden": 8192, "vocab_size": 50304}
GPT_350M = {"dim": 1024, "layers": 24, "heads": 16, "kv_heads": 16, "hidden": 4096, "vocab_size": 50304}
TINY = {"dim": 64, "layers": 3, "heads": 4, "kv_heads": 2, "hidden": 128, "vocab_size": 512}

CASES = {
    case.name: case
    for case in (
        Case("llama-8b-1x2048", **LLAMA_8B, micro=1, seq_len=2048),
        Case("llama-8b-1x8192", **LLAMA_8B, micro=1, seq_len=8192),
        Case("llama-8b-25-layers-1x8192", **LLAMA_8B | {"layers": 25}, micro=1, seq_len=8192),
        Case("llama-1.5b-4x4096", **LLAMA_1_5B, micro=4, seq_len=4096),
        Case("llama-1.5b-1x2048", **LLAMA_1_5B, micro=1, seq_len=2048),
        Case("llama-1.5b-8x1x2048", **LLAMA_1_5B, micro=1, seq_len=2048, accumulation=8),
        Case("llama-1.5b-4x4096-one-gpu", **LLAMA_1_5B, micro=4, seq_len=4096, gpus=1),
        Case("llama-350m-8x1024", **LLAMA_350M, micro=8, seq_len=1024),
        Case("gpt-1.3b-4x1024", **GPT_1_3B, micro=4, seq_len=1024, family="gpt"),
        Case("gpt-350m-8x1024", **GPT_350M, micro=8, seq_len=1024, family="gpt"),
        Case("tiny-gpt", **TINY | {"kv_heads": 4}, micro=2, seq_len=32, family="gpt"),
        Case("tiny", **TINY, micro=2, seq_len=32),
        Case("tiny-accumulation", **TINY, micro=1, seq_len=32, accumulation=2),
    )
}
