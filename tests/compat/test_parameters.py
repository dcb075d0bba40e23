"""Whole parameters under DeepSpeed's names: utils.safe_*, zero.GatheredParameters, zero.Init."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zerokit.compat.deepspeed as deepspeed
from tests.compat.scripts import FORMATS, Net, digest, make, micro_batches, on_all_stages, train
from tests.ranks import run_ranks

in_every_format = pytest.mark.parametrize("precision", FORMATS)
worlds = pytest.mark.parametrize("world", [1, 2])


def safe(stage: int, precision: str) -> dict:
    u = deepspeed.utils
    engine, *_ = make(stage, **FORMATS[precision])
    weight = engine.module.head.weight
    x, y = next(micro_batches(engine, 1))
    early = u.safe_get_full_grad(weight)
    engine.backward((engine(x) - y).square().mean())
    u.safe_set_full_grad(weight, torch.full((1, 12), 0.5))
    found = {"early": early, "grad": u.safe_get_full_grad(weight).tolist()}
    engine.zero_grad()
    train(engine, 1)
    moment = u.safe_get_full_optimizer_state(weight, "exp_avg")
    u.safe_set_full_optimizer_state(weight, moment * 2, "exp_avg")
    found["doubled"] = torch.equal(u.safe_get_full_optimizer_state(weight, "exp_avg"), moment * 2)
    found["unknown"] = u.safe_get_full_optimizer_state(weight, "velocity")
    value = u.safe_get_full_fp32_param(weight)
    u.safe_set_full_fp32_param(weight, value + 1)
    found["raised"] = torch.equal(u.safe_get_full_fp32_param(weight), value + 1)
    train(engine, 1)
    return found | {"digest": digest(engine)}


@worlds
@in_every_format
def test_single_parameters_are_read_and_written(precision, world):
    results = on_all_stages(safe, world, precision)
    assert all(r["early"] is None and r["grad"] == [[0.5] * 12] and r["unknown"] is None for r in results)
    assert all(r["doubled"] and r["raised"] for r in results)
    pairs = [
        {r["digest"] for r in results[first::4]} | {r["digest"] for r in results[first + 1 :: 4]} for first in (0, 2)
    ]
    assert [len(pair) for pair in pairs] == [1, 1]  # stages 0 and 1, and 2 and 3, add in the same order


def gathered(stage: int, precision: str) -> dict:
    engine, *_ = make(stage, **FORMATS[precision])
    before = engine.engine.full_state_dict()
    layer = engine.module.blocks[0][0]
    last = engine.world_size - 1
    with deepspeed.zero.GatheredParameters(layer.weight, modifier_rank=last):
        shape = tuple(layer.weight.shape)
        if engine.global_rank == last:
            nn.init.constant_(layer.weight, 0.25)
    with deepspeed.zero.GatheredParameters(engine.module.parameters()):
        found = {name: value.float().clone() for name, value in engine.module.state_dict().items()}
    after = engine.engine.full_state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    same = torch.equal(found["head.weight"], after["head.weight"].to(layer.weight.dtype).float())
    error = ""
    try:
        with deepspeed.zero.GatheredParameters([layer.bias]), torch.no_grad():
            layer.bias.fill_(1.0)
    except RuntimeError as problem:
        error = str(problem)
    train(engine, 1)
    return {"shape": shape, "changed": changed, "value": after["blocks.0.0.weight"].unique().tolist(), "error": error,
            "same": same or precision == "bf16"}  # fmt: skip


@worlds
@in_every_format
def test_gathered_parameters_write_back_what_the_modifier_changed(precision, world):
    for result in on_all_stages(gathered, world, precision):
        assert result["shape"] == (12, 12) and result["changed"] == ["blocks.0.0.weight"]
        assert (
            result["value"] == [0.25] and "1 gathered parameters were changed, but no modifier_rank" in result["error"]
        )
        assert result["same"]


def test_before_initialize_parameters_are_whole_anyway():
    model = Net()
    with deepspeed.zero.GatheredParameters(model.parameters(), modifier_rank=0):
        nn.init.zeros_(model.head.weight)
    assert not model.head.weight.any()
    with pytest.raises(ValueError, match="belongs to no engine"):
        deepspeed.utils.safe_get_full_fp32_param(model.head.weight)


class Odd(nn.Module):
    """Values made in the constructor, by no reset_parameters, and tied."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 12, bias=False)
        self.second = nn.Linear(12, 12, bias=False)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.full((12,), 0.75))
        self.register_buffer("shift", torch.arange(12.0))

    def forward(self, x):
        return (self.second(self.first(x)) * self.scale + self.shift).mean(1, keepdim=True)


def built(stage: int) -> dict:
    torch.manual_seed(7)
    with deepspeed.zero.Init():
        model = Odd()
    on_meta = model.scale.is_meta
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    engine, *_ = make(stage, lambda _: optimizer, model=model)
    torch.manual_seed(7)
    expected = Odd().state_dict()
    equal = all(torch.equal(value, expected[name]) for name, value in engine.engine.whole_weights())
    train(engine, 1)
    groups = all(p is q for p, q in zip(optimizer.param_groups[0]["params"], engine.module.parameters(), strict=True))
    return {"meta": on_meta, "equal": equal, "shift": engine.shift.tolist(), "groups": groups, "digest": digest(engine)}


def test_init_keeps_values_on_rank_0_alone():
    def run() -> list:
        deepspeed.init_distributed()
        return [built(stage) for stage in range(4)]

    ranks = run_ranks(run, 2)
    for stage in range(4):
        first, second = ranks[0][stage], ranks[1][stage]
        assert (first["meta"], second["meta"]) == (False, True)
        assert first == second | {"meta": False}
        assert first["equal"] and first["groups"] and first["shift"] == list(range(12))


def two_built_first(stage: int) -> list[bool]:
    """Whether each of two models that were built under Init, before either is initialised, has rank 0's values; and a
    third one, built without."""
    models = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        with deepspeed.zero.Init():
            models.append(Odd())
    torch.manual_seed(9)
    models.append(Odd())
    found = []
    for seed, model in zip((7, 8, 9), models, strict=True):
        engine, *_ = make(stage, model=model)
        torch.manual_seed(seed)
        expected = Odd().state_dict()
        found.append(all(torch.equal(value, expected[name]) for name, value in engine.engine.whole_weights()))
        train(engine, 1)
    return found


def test_two_models_are_built_before_either_is_initialised():
    def run() -> list:
        deepspeed.init_distributed()
        return [two_built_first(stage) for stage in range(4)]

    assert run_ranks(run, 2, timeout=60) == [[[True] * 3] * 4] * 2


def test_init_reads_its_configuration():
    with pytest.raises(ValueError, match="zero_optimization.stag. Did you mean"):
        deepspeed.zero.Init(config_dict_or_path={"zero_optimization": {"stag": 3}})
