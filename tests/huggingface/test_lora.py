"""Adapters of peft: the base is frozen and divided, the adapter trains as in PyTorch alone and loads in peft."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("transformers")
pytest.importorskip("peft")

import peft

from tests.huggingface.models import ARCHITECTURES, build
from tests.huggingface.training import Combination, difference, make_engine, masters, references, train
from tests.ranks import run_ranks

BATCH = ARCHITECTURES["llama"].batch
COMBINATIONS = [Combination(0, "fp32", "none"), Combination(2, "fp32", "selective"), Combination(3, "fp32", "full")]


def adapted():
    base = build("llama")
    torch.manual_seed(1)
    return peft.get_peft_model(base, peft.LoraConfig(r=4, lora_dropout=0.0, target_modules="all-linear")).train()


@torch.no_grad()
def logits(model):
    return model.eval()(**BATCH(9)).logits


def trained(folder):
    """For each combination: the difference from plain training, of the frozen base from its first values, and of the
    logits of a saved adapter that peft loads; which part of the base a rank holds."""
    start, wanted, found = masters(adapted()), references(adapted, BATCH, ["fp32"])["fp32"], {}
    for how in COMBINATIONS:
        engine = make_engine(adapted(), how)
        got = train(engine, BATCH)
        frozen = [name for name in got if "lora" not in name]
        with engine.gathered() as model:
            if dist.get_rank() == 0:
                model.save_pretrained(f"{folder}/{how.stage}")
            mine = logits(model)
        dist.barrier()
        loaded = logits(peft.PeftModel.from_pretrained(build("llama"), f"{folder}/{how.stage}"))
        found[how.stage] = {
            "weights": difference(got, wanted, start),
            "base": max(float((got[name] - start[name]).abs().max()) for name in frozen),
            "logits": float((loaded - mine).abs().max()),
            "learned": float((mine - logits(build("llama"))).abs().max()),
            "held": engine.memory()["parameters"] / sum(4 * value.numel() for value in start.values()),
        }
    return found


def test_an_adapter_trains_as_in_pytorch_and_loads_in_peft(tmp_path):
    for found in run_ranks(trained, 2, str(tmp_path)):
        for stage, values in found.items():
            assert values["weights"] < 1e-5
            assert values["base"] == values["logits"] == 0
            assert values["learned"] > 1e-3
            assert (values["held"] < 0.7) == (stage == 3), "the frozen base is divided"
