"""Caches of keys and values in models whose blocks are recomputed."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

import transformers as hf

from tests.huggingface.models import ARCHITECTURES, build
from zerokit.train.initialize import initialize

DECODERS = ["llama", "gpt2", "mistral", "gemma2", "gemma3", "t5", "whisper", "mixtral"]
CASES = [
    *((name, "full") for name in DECODERS),
    *((name, "selective") for name in ("llama", "mistral", "gemma3", "t5", "whisper")),
    *((name, {"name": "every_k", "k": 2}) for name in ("mistral", "t5")),
    *((name, {"name": "cpu", "min_bytes": 0}) for name in ("mistral", "whisper")),
]


def engine_of(model, checkpointing):
    return initialize(model, {"checkpointing": checkpointing})


def gradients(name, checkpointing, **options):
    """Of one batch, by name; and what the model returned."""
    engine = engine_of(build(name), checkpointing)
    out = engine(**ARCHITECTURES[name].batch(0), **options)
    engine.backward(out["loss"])
    return {n: engine.values.gradient(n) for n, p in engine.module.named_parameters() if p.requires_grad}, out


@pytest.mark.parametrize(("name", "checkpointing"), CASES, ids=str)
def test_gradients_with_and_without_a_cache(name, checkpointing):
    wanted, _ = gradients(name, "none", use_cache=False)
    for options in ({}, {"use_cache": True}):
        got, out = gradients(name, checkpointing, **options)
        assert max(float((got[n] - wanted[n]).abs().max()) for n in wanted) < 1e-6
        assert ("cache" in out) == bool(options), "a cache is kept for who asks for it"


def test_a_prefix_of_the_caller():
    """As peft's prefix tuning does it: blocks read keys and values that are trained."""

    def gradient(checkpointing):
        torch.manual_seed(1)
        prefix = torch.randn(2, 2, 2, 1, 3, 8, requires_grad=True)  # block, keys and values, sample, head, token, width
        model = build("llama")
        engine = engine_of(model, checkpointing)
        batch = ARCHITECTURES["llama"].batch(0)
        batch["attention_mask"] = torch.cat([torch.ones(2, 3, dtype=torch.long), batch["attention_mask"]], 1)
        cache = hf.DynamicCache([tuple(block) for block in prefix])
        engine.backward(engine(**batch, cache=cache).loss)
        return prefix.grad

    assert (gradient("full") - gradient("none")).abs().max() < 1e-6
    assert gradient("full").abs().max() > 1e-4


def test_generation_uses_its_cache():
    model, plain = build("llama"), build("llama").eval()
    engine = engine_of(model, "full")
    prompt = ARCHITECTURES["llama"].batch(0)["input_ids"]
    with torch.no_grad():
        assert engine(input_ids=prompt).cache.get_seq_length() == prompt.shape[1]
    with engine.gathered():
        got = model.eval().generate(prompt, max_new_tokens=4, do_sample=False)
    assert torch.equal(got, plain.generate(prompt, max_new_tokens=4, do_sample=False))
    assert model.config.use_cache
