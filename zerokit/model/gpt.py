"""GPT: the family of GPT-2 (Radford et al. 2019), with newer parts as options."""

from dataclasses import dataclass
from typing import Literal

from zerokit.config.registry import register
from zerokit.model._checks import check_decoder


@dataclass
class GPTOptions:
    vocab_size: int | None = None
    """Number of different tokens; null: that of the data."""
    context: int | None = None
    """Longest sequence in tokens; null: data.seq_len."""
    dim: int = 768
    """Width of the hidden states."""
    layers: int = 12
    """Number of blocks."""
    heads: int = 12
    """Attention heads; divides dim."""
    hidden: int | None = None
    """Width inside the feed-forward layer; null: 4 dim."""
    positions: Literal["learned", "rotary"] = "learned"
    """Embedded positions as in GPT-2, or rotary ones (theta 10000)."""
    activation: Literal["gelu", "relu2", "swiglu"] = "gelu"
    """Non-linearity of the feed-forward layer: GPT-2's gelu, squared ReLU, or SwiGLU."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Normalisation before each layer: GPT-2's LayerNorm, or RMSNorm."""
    bias: bool = True
    """Biases in linear layers and LayerNorms."""
    qk_norm: bool = False
    """Normalise queries and keys (Dehghani et al. 2023)."""
    tied: bool = True
    """Head and embedding share their weights."""
    dropout: float = 0.0
    """Probability, on embeddings, attention and residual branches; GPT-2's paper used 0.1."""
    init_std: float = 0.02
    """Standard deviation of the initial weights; layers that end a residual branch get it over sqrt(2 layers)."""
    loss_chunk: int = 2048
    """Tokens whose logits exist at a time in the loss."""

    def __post_init__(self) -> None:
        check_decoder(self)
        if self.positions == "rotary" and self.dim // self.heads % 2:
            raise ValueError(f"heads: rotary positions need an even dim / heads; got {self.dim} / {self.heads}.")


register("model", "gpt", GPTOptions, "zerokit.model._families:build_gpt")
