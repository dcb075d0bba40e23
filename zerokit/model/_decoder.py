"""One decoder-only transformer for the families `gpt` and `llama`: they differ in its `Shape` alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zerokit.config.data_info import IGNORED
from zerokit.model._layers import Embedding, Head, Linear, Rotary, RotaryScaling, rotate

LARGE = 2**22  # elements: a smaller table is not worth a gather of its own


@dataclass(frozen=True)
class Shape:
    """Sizes and parts of a decoder."""

    vocab_size: int
    context: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    """Width inside the feed-forward layer."""
    activation: str
    """"gelu" (tanh form, as GPT-2), "relu2" (squared ReLU, So et al. 2021) or "swiglu" (Shazeer 2020)."""
    norm: str
    """"layernorm" or "rmsnorm"."""
    norm_eps: float
    bias: bool
    """Whether linear layers and LayerNorms have biases."""
    theta: float | None
    """Base of the rotary embedding; None: learned positions."""
    scaling: RotaryScaling | None
    qk_norm: bool
    """Whether queries and keys are normalised (without weights) before the attention."""
    tied: bool
    """Whether the head uses the embedding's weights."""
    dropout: float
    init_std: float
    loss_chunk: int

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def residual_std(self) -> float:
        """GPT-2's: the layers that add to the residual stream start smaller, by the root of their number."""
        return self.init_std / (2 * self.layers) ** 0.5


def make_norm(shape: Shape) -> nn.Module:
    """Normalisation over `dim`."""
    if shape.norm == "rmsnorm":
        return nn.RMSNorm(shape.dim, eps=shape.norm_eps)
    return nn.LayerNorm(shape.dim, eps=shape.norm_eps, bias=shape.bias)


def visible(attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor | None:
    """Which places (last dimension) each place sees, (B, 1, T, T) bool; None where that is all up to itself.

    Every place sees itself, padding too: a softmax over nothing is NaN.
    """
    given = attention_mask if position_ids is None else position_ids
    if given is None:
        return None
    places = torch.arange(given.shape[1], device=given.device)
    seen = (places <= places[:, None])[None]
    if position_ids is not None:
        begins = F.pad(position_ids[:, 1:] != position_ids[:, :-1] + 1, (1, 0))
        document = begins.cumsum(1)
        seen = seen & (document[:, :, None] == document[:, None])
    if attention_mask is not None:
        seen = seen & attention_mask[:, None].bool()
    return (seen | (places == places[:, None]))[:, None]


class Attention(nn.Module):
    """Causal grouped-query attention (Ainslie et al. 2023): (B, T, D) → (B, T, D).

    `qkv.weight` holds the rows of all queries, then all keys, then all values: one product is faster than three.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = shape.heads, shape.kv_heads, shape.head_dim
        self.qk_norm, self.dropout = shape.qk_norm, shape.dropout
        width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        self.qkv = Linear(shape.dim, width, shape.bias, shape.init_std)
        self.out = Linear(shape.heads * shape.head_dim, shape.dim, shape.bias, shape.residual_std)

    def forward(self, x: Tensor, rotation: Tensor | None, mask: Tensor | None = None) -> Tensor:
        heads = self.qkv(x).unflatten(-1, (-1, self.head_dim))
        qk, v = heads.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        if self.qk_norm:
            qk = F.rms_norm(qk, (self.head_dim,))
        if rotation is not None:
            qk = rotate(qk, rotation)
        q, k = qk.split((self.heads, self.kv_heads), dim=2)
        mixed = F.scaled_dot_product_attention(
            *(part.transpose(1, 2) for part in (q, k, v)),
            dropout_p=self.dropout if self.training else 0.0,
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=self.heads != self.kv_heads,
        )
        return self.out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """(B, T, D) → (B, T, D). For SwiGLU `up.weight` holds the rows of the gate, then those of the values."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.activation = shape.activation
        self.up = Linear(shape.dim, shape.hidden * (1 + (shape.activation == "swiglu")), shape.bias, shape.init_std)
        self.down = Linear(shape.hidden, shape.dim, shape.bias, shape.residual_std)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if self.activation == "swiglu":
            gate, value = x.chunk(2, dim=-1)
            x = F.silu(gate) * value
        elif self.activation == "relu2":
            x = F.relu(x).square()
        else:
            x = F.gelu(x, approximate="tanh")
        return self.down(x)


class Block(nn.Module):
    """Pre-norm transformer block: (B, T, D) → (B, T, D).

    `rotation`: the rotary table, or None. `mask` (B, 1, T, T): which places each one sees; None: all up to itself.
    """

    casts_inputs = False  # the rotary table is used in fp32: bf16 tells places apart up to some hundred only

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = make_norm(shape)
        self.attention = Attention(shape)
        self.feed_forward_norm = make_norm(shape)
        self.feed_forward = FeedForward(shape)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, rotation: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, mask))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Decoder(nn.Module):
    """Language model: tokens (B, T) int64 → logits (B, T, V), or with targets or labels the mean loss in nats (fp32).

    `targets` (B, T) belong to the outputs at their places, `labels` (B, T) to the tokens at theirs, so that those at t
    are predicted from the tokens before t; -100 is left out of the mean. `attention_mask` (B, T): 0 at padding, which
    no place sees. `position_ids` (B, T): places in a document; a document begins where they do not go on by one, and
    sees nothing of those before it.
    """

    shardwise_init = True
    shifts_labels = True

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = Embedding(shape.vocab_size, shape.dim, shape.init_std)
        if shape.theta is None:
            self.positions = Embedding(shape.context, shape.dim, shape.init_std)
        else:
            self.positions = Rotary(shape.head_dim, shape.context, shape.theta, shape.scaling)
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = make_norm(shape)
        self.head = Head(shape.dim, shape.vocab_size, shape.init_std, shape.loss_chunk)
        if shape.tied:
            self.head.weight = self.embedding.weight
        # Counted now: the engine cuts the parameters later.
        lookups = (self.positions,) if shape.tied else (self.positions, self.embedding)
        self._multiplied = sum(p.numel() for p in self.parameters()) - sum(
            p.numel() for module in lookups for p in module.parameters()
        )

    def forward(
        self,
        input_ids: Tensor,
        targets: Tensor | None = None,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        length = input_ids.shape[1]
        if length > self.shape.context:
            raise ValueError(f"the model's context is {self.shape.context} tokens, got {length}; raise model.context")
        x = self.embedding(input_ids)
        rotation = None
        if self.shape.theta is None:
            x = x + self.positions(torch.arange(length, device=x.device) if position_ids is None else position_ids)
        else:
            rotation = self.positions(length, position_ids)
        x = self.dropout(x)
        mask = visible(attention_mask, position_ids)
        for block in self.blocks:
            x = block(x, rotation, mask)
        if labels is not None:
            targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
        return self.head(self.norm(x), targets)

    def units(self) -> list[nn.Module]:
        """Modules to gather one by one: the blocks, and embedding and head where large and not tied."""
        ends = [] if self.shape.tied else [self.embedding, self.head]
        return [*self.blocks, *(end for end in ends if self.shape.vocab_size * self.shape.dim >= LARGE)]

    def flops_per_token(self, seq_len: int) -> float:
        """Forward and backward, 6 N + 12 · layers · dim · seq_len (PaLM, arXiv 2204.02311, appendix B).

        N leaves out parameters that are only looked up. The attention counts as if it were not causal, as there.
        """
        return 6.0 * self._multiplied + 12.0 * self.shape.layers * self.shape.dim * seq_len
