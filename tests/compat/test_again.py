"""One model under several engines, one after the other; models whose values are on some ranks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zerokit
from tests.compat.scripts import STAGES, Net, digest, make, train
from tests.ranks import run_ranks
from zerokit.config.errors import ConfigError


def twice(stage: int, destroys: bool, checkpoints: bool) -> dict:
    """What a second engine finds on a model that a first one trained, with the hooks and forwards left on it."""
    section = {"activation_checkpointing": {"partition_activations": True}} if checkpoints else {}
    torch.manual_seed(0)
    model = Net()
    engine, *_ = make(stage, model=model, **section)
    train(engine, 1)
    kept = engine.engine.full_state_dict()
    free = True
    if destroys:
        engine.destroy()
        engine.destroy()  # to no effect
        free = all(torch.equal(value, kept[name]) for name, value in model.named_parameters())
        free = free and not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
        model(torch.ones(2, 12)).sum().backward()  # a plain model
        free = free and all(p.grad is not None for p in model.parameters())
    runs = []
    counting = model.blocks[0][0].register_forward_hook(lambda *_: runs.append(1))
    engine, *_ = make(stage, model=model, **section)
    same = all(torch.equal(value, kept[name]) for name, value in engine.engine.whole_weights())
    train(engine, 1)
    counting.remove()
    return {"free": free, "same": same, "runs": len(runs), "digest": digest(engine)}


@pytest.mark.parametrize("world", [1, 2])
def test_a_model_is_initialised_twice(world):
    def run() -> list:
        return [[twice(stage, *case) for case in ((False, False), (True, True), (False, True))] for stage in STAGES]

    for rank in run_ranks(run, world):
        for cases in rank:
            assert all(case["free"] and case["same"] for case in cases)
            assert len({case["digest"] for case in cases}) == 1
            assert [case["runs"] for case in cases] == [2, 4, 4]  # recomputed once, not once per engine


def partly_on_meta(missing: int) -> list:
    """What initialize says or finds where one rank has the model without values."""
    import torch.distributed as dist

    found: list = []
    for stage in STAGES:
        torch.manual_seed(3)
        with torch.device("meta" if dist.get_rank() == missing else "cpu"):
            model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
        torch.manual_seed(3)
        wanted = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).state_dict()
        try:
            engine = zerokit.initialize(model, {"zero": {"stage": stage, "min_unit": 0}})
            found.append(all(torch.equal(value, wanted[name]) for name, value in engine.whole_weights()))
        except ConfigError as error:
            found.append(str(error))
    return found


def test_values_on_some_ranks_only():
    assert run_ranks(partly_on_meta, 2, 1, timeout=60) == [[True] * 4] * 2
    for rank in run_ranks(partly_on_meta, 2, 0, timeout=60):
        assert all("rank 0 has Sequential on the meta device" in told for told in rank)
