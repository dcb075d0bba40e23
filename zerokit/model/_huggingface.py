"""zerokit's Llama in the names of Hugging Face's `LlamaForCausalLM`, so that `transformers` loads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Rows(NamedTuple):
    """Rows `[start, stop)` of the tensor `source`; all of it where `stop` is None."""

    source: str
    start: int = 0
    stop: int | None = None


_OUTER = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight",
          "head.weight": "lm_head.weight"}  # fmt: skip
_INNER = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.out.weight": "self_attn.o_proj.weight",
    "feed_forward_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.down.weight": "mlp.down_proj.weight",
}


def llama_tensors(options: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Rows]:
    """Which rows of our tensors each of theirs is. options: of `model=llama`; shapes: of our tensors by name."""
    width = options["dim"] // options["heads"]
    queries, keys = options["heads"] * width, options["kv_heads"] * width
    found = {theirs: Rows(ours) for ours, theirs in _OUTER.items() if ours in shapes}
    for name in shapes:
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if match is None:
            continue
        prefix, rest = f"model.layers.{match[1]}.", match[2]
        if rest == "attention.qkv.weight":
            ends = (0, queries, queries + keys, queries + 2 * keys)
            for letter, start, stop in zip("qkv", ends, ends[1:], strict=False):
                found[f"{prefix}self_attn.{letter}_proj.weight"] = Rows(name, start, stop)
        elif rest == "feed_forward.up.weight":
            half = shapes[name][0] // 2
            found[f"{prefix}mlp.gate_proj.weight"] = Rows(name, 0, half)
            found[f"{prefix}mlp.up_proj.weight"] = Rows(name, half, 2 * half)
        else:
            found[prefix + _INNER[rest]] = Rows(name)
    return found


def llama_config(options: Mapping[str, Any], vocab_size: int, context: int) -> dict[str, Any]:
    """Their `config.json` for the options of `model=llama`."""
    scaling = None
    if options["rope_factor"] is not None:
        scaling = {
            "rope_type": "llama3",
            "factor": options["rope_factor"],
            "low_freq_factor": options["rope_low"],
            "high_freq_factor": options["rope_high"],
            "original_max_position_embeddings": options["rope_context"],
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": options["dim"],
        "intermediate_size": options["hidden"],
        "num_hidden_layers": options["layers"],
        "num_attention_heads": options["heads"],
        "num_key_value_heads": options["kv_heads"],
        "head_dim": options["dim"] // options["heads"],
        "vocab_size": vocab_size,
        "max_position_embeddings": context,
        "rms_norm_eps": options["norm_eps"],
        "rope_theta": options["rope_theta"],
        "rope_scaling": scaling,
        "tie_word_embeddings": options["tied"],
        "initializer_range": options["init_std"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": options["dropout"],
    }
