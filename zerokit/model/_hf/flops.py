"""Floating-point operations of a token, for MFU."""

from __future__ import annotations

from torch import nn


def multiplied(model: nn.Module) -> tuple[float, float]:
    """Parameters that a token meets in matrix products: all, and those that are trained.

    Tables are left out that are only looked up; of experts those count that a token goes to.
    """
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    shared = set() if head is None else set(head.parameters())
    looked_up = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()} - shared
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    used = getattr(config, "num_experts_per_tok", None)
    share = used / experts if experts and used else 1.0
    total = learned = 0.0
    for name, parameter in model.named_parameters():
        if parameter in looked_up:
            continue
        count = parameter.numel() * (share if ".experts." in name else 1.0)
        total += count
        learned += count * parameter.requires_grad
    return total, learned


def flops_per_token(model: nn.Module, seq_len: int | None) -> float:
    """Forward and backward: 2 for each parameter in a matrix product, 2 for the gradient of its input, 2 for its own if
    it is trained, and 12 · layers · dim · seq_len of attention (PaLM, arXiv 2204.02311, appendix B). A token of an
    encoder-decoder goes through about half of it: it is read or written."""
    config = model.config.get_text_config()
    total, learned = multiplied(model)
    heads, head_dim = (getattr(config, key, None) or 0 for key in ("num_attention_heads", "head_dim"))
    layers = sum(getattr(config, key, None) or 0 for key in ("num_hidden_layers", "num_decoder_layers"))
    width = heads * head_dim or config.hidden_size
    share = 0.5 if getattr(config, "is_encoder_decoder", False) else 1.0
    return share * (4.0 * total + 2.0 * learned + 12.0 * layers * width * (seq_len or 0))
