"""Every optimizer computes the same at every stage: bit for bit on two ranks, where each sum has one rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.optimizer.training import Run, engine_of, train
from tests.ranks import run_ranks
from zerokit.precision._scaler import DynamicScaler
from zerokit.zero.engine import Numerics

RUNS = {
    "adamw": {},
    "adagrad": {},
    "lion": {},
    "lamb": {"weight_decay": 0.1},
    "adafactor": {"weight_decay": 0.1},
    "muon": {},
    "adam8bit": {"weight_decay": 0.1},
    "schedule_free_adamw": {"weight_decay": 0.1},
    "torch": {"type": "NAdam", "weight_decay": 0.1},
    "adamw/bf16": {"moments": "bf16"},
    "lamb/int8": {"moments": "int8", "weight_decay": 0.1},
    "sgd/int8": {"moments": "int8"},
    "muon/int8": {"moments": "int8"},
    "schedule_free_adamw/int8": {"moments": "int8", "weight_decay": 0.1},
}
"""Options by optimizer, and what tells them apart behind a stroke."""
BF16 = Numerics(compute=torch.bfloat16, master="split", reduce=torch.bfloat16)


def kind(label: str) -> str:
    """The optimizer of a label."""
    return label.partition("/")[0]


def outcome(run: Run, stages=(0, 1, 2, 3)) -> dict:
    """Digest of the weights, states by name, and collectives of a step, at every stage."""
    result = {}
    for stage in stages:
        engine = engine_of(run, stage)
        train(engine, run.steps - 1)
        engine.comm.reset_counters()
        train(engine, 1, first=run.steps - 1)
        result[stage] = {
            "sha256": engine.reader.sha256(),
            "calls": dict(engine.comm.calls),
            "memory": engine.memory()["optimizer"],
            "formula": engine.memory_at(engine.declared)["optimizer"],
        }
    return result


@pytest.mark.parametrize("model", ["plain", "frozen"])
@pytest.mark.parametrize("name", RUNS)
def test_stages_agree_bit_for_bit(name, model):
    run = Run(kind(name), {"lr": 0.01, **RUNS[name]}, model=model, steps=4, clip_norm=1.0)
    ranks = run_ranks(outcome, 2, run)
    assert len({rank[stage]["sha256"] for rank in ranks for stage in range(4)}) == 1
    for stage in range(4):
        assert ranks[0][stage]["memory"] == ranks[0][stage]["formula"]


@pytest.mark.parametrize("name", RUNS)
def test_stages_agree_in_bf16(name):
    run = Run(kind(name), {"lr": 0.01, **RUNS[name]}, steps=3, numerics=BF16)
    ranks = run_ranks(outcome, 2, run)
    assert len({rank[stage]["sha256"] for rank in ranks for stage in range(4)}) == 1


def test_stages_agree_with_masters_of_24_bits():
    run = Run("adamw", {"lr": 0.01}, steps=3)
    found = [replace(run, numerics=replace(BF16, master=master)) for master in ("split24", "split")]
    (half, _), (exact, _) = (run_ranks(outcome, 2, run) for run in found)
    assert len({half[stage]["sha256"] for stage in range(4)}) == 1
    assert half[0]["sha256"] != exact[0]["sha256"]


def in_fp16(run: Run) -> list[tuple[str, float]]:
    """Digest of the weights and loss scale at every stage; the first scale makes some gradients overflow."""
    found = []
    for stage in range(4):
        scaler = DynamicScaler(2.0**18, 2, 1, 1.0, 2.0, torch.device("cpu"))
        numerics = Numerics(compute=torch.float16, master="separate", reduce=torch.float16, scaler=scaler)
        engine = engine_of(replace(run, numerics=numerics), stage)
        train(engine, run.steps)
        assert engine.steps_taken > 0 and engine.steps_skipped > 0
        found.append((engine.reader.sha256(), float(scaler.scale)))
    return found


@pytest.mark.parametrize("name", RUNS)
def test_stages_agree_in_fp16(name):
    ranks = run_ranks(in_fp16, 2, Run(kind(name), {"lr": 0.01, **RUNS[name]}, steps=4, clip_norm=1.0))
    assert len({result for rank in ranks for result in rank}) == 1


COLLECTIVES = {
    "adamw": {},
    "adam8bit": {},
    "lamb": {"optimizer": 2},
    "adafactor": {"optimizer": 4},
    "muon": {"all_to_all": 2},
}


@pytest.mark.parametrize("name", COLLECTIVES)
def test_collectives_of_a_step(name):
    """Beside those of the stage and the norm: one all-reduce per phase and group, two exchanges of matrices."""
    (first, _) = run_ranks(outcome, 2, Run(name, RUNS[name], steps=2), (1, 3))
    for stage in (1, 3):
        calls = first[stage]["calls"]
        assert {kind: calls[kind] for kind in ("optimizer", "all_to_all") if kind in calls} == COLLECTIVES[name]


def test_three_ranks_agree_with_one_another():
    for name in ("lamb", "adafactor", "muon"):
        ranks = run_ranks(outcome, 3, Run(name, RUNS[name], steps=3))
        for stage in range(4):
            assert len({rank[stage]["sha256"] for rank in ranks}) == 1, (name, stage)
