"""Tiny models of Hugging Face's architectures with random weights, and their batches. Imports transformers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn

hf.logging.set_verbosity_error()
warnings.filterwarnings("ignore", module="transformers")

VOCABULARY, LENGTH, SAMPLES = 64, 12, 2
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    **SPECIAL,
}
ENCODER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TEXT_ENCODER = {**ENCODER, "vocab_size": VOCABULARY, "max_position_embeddings": 32, "pad_token_id": 0}
IMAGE = {"image_size": 16, "patch_size": 8}
SPARSE = {"num_experts_per_tok": 2, "output_router_logits": True}
SEQ2SEQ = {"vocab_size": VOCABULARY, "d_model": 16, **SPECIAL}
BART = {
    **{f"{side}_ffn_dim": 32 for side in ("encoder", "decoder")},
    **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    "dropout": 0.0,
}


def _generator(index: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + index)


def _tokens(index: int, length: int = LENGTH) -> Tensor:
    return torch.randint(3, VOCABULARY, (SAMPLES, length), generator=_generator(index))


def text(index: int) -> dict[str, Any]:
    """Tokens, of which the last of the second sample are padding."""
    tokens = _tokens(index)
    mask = torch.ones_like(tokens)
    mask[1, -3:] = 0
    labels = tokens.masked_fill(mask == 0, -100)
    return {"input_ids": tokens.masked_fill(mask == 0, 0), "attention_mask": mask, "labels": labels}


def unpadded(index: int) -> dict[str, Any]:
    """Tokens alone."""
    return {"input_ids": _tokens(index), "labels": _tokens(index)}


def translation(index: int) -> dict[str, Any]:
    """Tokens, and others of another length to be made from them."""
    return {**text(index), "labels": _tokens(index + 77, 7)}


def image(index: int) -> dict[str, Any]:
    """Pictures with a class each."""
    generator = _generator(index)
    pixels = torch.randn(SAMPLES, 3, 16, 16, generator=generator)
    return {"pixel_values": pixels, "labels": torch.randint(10, (SAMPLES,), generator=generator)}


def speech(index: int) -> dict[str, Any]:
    """Spectra, and the tokens spoken."""
    return {"input_features": torch.randn(SAMPLES, 8, 24, generator=_generator(index)), "labels": _tokens(index, 7)}


def captions(index: int) -> dict[str, Any]:
    """Pictures with a text each."""
    tokens = _tokens(index).clamp(max=VOCABULARY - 2)
    tokens[:, -1] = VOCABULARY - 1
    pixels = image(index)["pixel_values"]
    return {"input_ids": tokens, "pixel_values": pixels, "return_loss": True}


def pairs(index: int) -> dict[str, Any]:
    """Two texts that belong together."""
    one, other = text(index), text(index + 50)
    del one["labels"], other["labels"]
    return {"one": one, "other": other}


class SentenceEncoder(nn.Module):
    """One encoder that is used twice in a forward."""

    def __init__(self):
        super().__init__()
        self.encoder = hf.BertModel(hf.BertConfig(**TEXT_ENCODER), add_pooling_layer=False)

    def embed(self, batch: dict) -> Tensor:
        return F.normalize(self.encoder(**batch).last_hidden_state.mean(1), dim=-1)

    def forward(self, one: dict, other: dict) -> dict[str, Tensor]:
        scores = 20.0 * self.embed(one) @ self.embed(other).T
        return {"loss": F.cross_entropy(scores.float(), torch.arange(len(scores)))}


def _clip() -> nn.Module:
    tower = {key: ENCODER[key] for key in ENCODER if "dropout" not in key} | {"projection_dim": 8}
    words = {
        **tower,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 32,
        **SPECIAL,
        "eos_token_id": VOCABULARY - 1,
    }
    return hf.CLIPModel(hf.CLIPConfig(text_config=words, vision_config={**tower, **IMAGE}, projection_dim=8))


class Architecture(NamedTuple):
    """build: a tiny model with random weights; batch: keyword arguments of its forward for a number."""

    build: Callable[[], nn.Module]
    batch: Callable[[int], dict[str, Any]] = text


def _decoder(name: str, **options: Any) -> Architecture:
    config = getattr(hf, f"{name}Config" if name != "Gemma3" else "Gemma3TextConfig")
    model = getattr(hf, f"{name}ForCausalLM")
    return Architecture(lambda: model(config(**DECODER, **options)))


def _gpt2() -> nn.Module:
    no_dropout = {f"{place}_pdrop": 0.0 for place in ("resid", "embd", "attn")}
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2, **no_dropout, **SPECIAL)
    )


def _t5() -> nn.Module:
    sizes = {"d_ff": 32, "d_kv": 8, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
    return hf.T5ForConditionalGeneration(hf.T5Config(**SEQ2SEQ, **sizes, decoder_start_token_id=0))


def _bart() -> nn.Module:
    return hf.BartForConditionalGeneration(
        hf.BartConfig(**SEQ2SEQ, **BART, max_position_embeddings=32, decoder_start_token_id=2)
    )


def _whisper() -> nn.Module:
    lengths = {"num_mel_bins": 8, "max_source_positions": 12, "max_target_positions": 16}
    unused = {"suppress_tokens": None, "begin_suppress_tokens": None}
    config = hf.WhisperConfig(**SEQ2SEQ, **BART, **lengths, **unused, decoder_start_token_id=1)
    return hf.WhisperForConditionalGeneration(config)


def _mamba() -> nn.Module:
    config = hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=2, **SPECIAL)
    return hf.MambaForCausalLM(config)


ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": Architecture(_gpt2),
    "llama": _decoder("Llama"),
    "llama_tied": _decoder("Llama", tie_word_embeddings=True),
    "qwen2": _decoder("Qwen2", tie_word_embeddings=True),
    "qwen3": _decoder("Qwen3", head_dim=8),
    "phi3": _decoder("Phi3"),
    "mistral": _decoder("Mistral", sliding_window=8),
    "mixtral": _decoder("Mixtral", num_local_experts=4, **SPARSE),
    "qwen3_moe": _decoder("Qwen3Moe", head_dim=8, moe_intermediate_size=16, num_experts=4, **SPARSE),
    "gemma2": _decoder("Gemma2", head_dim=8, sliding_window=8),
    "gemma3": _decoder("Gemma3", head_dim=8, sliding_window=8),
    "t5": Architecture(_t5, translation),
    "bart": Architecture(_bart, translation),
    "whisper": Architecture(_whisper, speech),
    "bert": Architecture(lambda: hf.BertForMaskedLM(hf.BertConfig(**TEXT_ENCODER))),
    "vit": Architecture(lambda: hf.ViTForImageClassification(hf.ViTConfig(**ENCODER, **IMAGE, num_labels=10)), image),
    "clip": Architecture(_clip, captions),
    "mamba": Architecture(_mamba, unpadded),
    "sentence_encoder": Architecture(SentenceEncoder, pairs),
}


def build(name: str) -> nn.Module:
    """The model of an architecture in training mode, always with the same weights."""
    torch.manual_seed(0)
    return ARCHITECTURES[name].build().train()
