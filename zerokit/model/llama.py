"""Llama 3 (Grattafiori et al. 2024, arXiv 2407.21783): RMSNorm, rotary positions, grouped queries, SwiGLU."""

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.model._checks import check_decoder


@dataclass
class LlamaOptions:
    vocab_size: int | None = None
    """Number of different tokens; null: that of the data."""
    context: int | None = None
    """Longest sequence in tokens (length of the rotary table); null: data.seq_len."""
    dim: int = 2048
    """Width of the hidden states."""
    layers: int = 16
    """Number of blocks."""
    heads: int = 32
    """Query heads; divides dim."""
    kv_heads: int = 8
    """Key and value heads; divides heads."""
    hidden: int = 8192
    """Width inside the feed-forward layer."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMSNorm."""
    rope_theta: float = 500000.0
    """Base of the rotary angles."""
    rope_factor: float | None = None
    """How far Llama 3's scaling stretches the low rotary frequencies; null: not at all."""
    rope_low: float = 1.0
    """Turns within rope_context below which a frequency is stretched in full."""
    rope_high: float = 4.0
    """Turns within rope_context above which a frequency is kept."""
    rope_context: int = 8192
    """Tokens the model was first trained on, which rope_low and rope_high count in."""
    tied: bool = False
    """Head and embedding share their weights."""
    dropout: float = 0.0
    """Probability, on embeddings, attention and residual branches; the published models use none."""
    init_std: float = 0.02
    """Standard deviation of the initial weights; layers that end a residual branch get it over sqrt(2 layers)."""
    loss_chunk: int = 2048
    """Tokens whose logits exist at a time in the loss."""

    def __post_init__(self) -> None:
        check_decoder(self)
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(f"kv_heads: expected a divisor of heads={self.heads}; got {self.kv_heads}.")
        if self.dim // self.heads % 2:
            raise ValueError(f"heads: rotary positions need an even dim / heads; got {self.dim} / {self.heads}.")


register("model", "llama", LlamaOptions, "zerokit.model._families:build_llama")
