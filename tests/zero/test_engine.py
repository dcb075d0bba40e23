from __future__ import annotations

import ctypes

import pytest
import torch
from torch import nn

from tests.ranks import run_ranks
from tests.zero.models import Language, batches
from tests.zero.training import GROUPS, Case, make_engine, make_optimizer, train
from zerokit.comm import Communicator
from zerokit.precision._scaler import DynamicScaler
from zerokit.train.memory import MemoryMeter
from zerokit.zero.engine import Engine
from zerokit.zero.numerics import Numerics

STAGES = [0, 1, 2, 3]


def poisoned(stage: int) -> dict:
    """Three steps, the second with a NaN in the gradient of rank 1 alone."""
    case = Case(steps=3)
    engine = make_engine(case, stage)
    digests = [engine.reader.sha256()]
    for number, step in enumerate(batches(3, 2)):
        loss = engine(*step[engine.comm.rank])
        engine.backward(loss * float("nan") if number == 1 and engine.comm.rank == 1 else loss)
        engine.step()
        digests.append(engine.reader.sha256())
    return {"digests": digests, "taken": float(engine.steps_taken), "skipped": float(engine.steps_skipped)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_nan_on_one_rank_skips_the_step_on_all(stage):
    results = run_ranks(poisoned, 2, stage)
    assert results[0] == results[1]
    digests = results[0]["digests"]
    assert digests[1] == digests[2] and len(set(digests)) == 3
    assert (results[0]["taken"], results[0]["skipped"]) == (2, 1)


def test_too_many_skips_in_a_row_are_an_error():
    engine = make_engine(Case(), 2, max_skips=2)
    for step in batches(2, 1):
        engine.check()
        engine.backward(engine(*step[0]) * float("inf"))
        engine.step()
    with pytest.raises(FloatingPointError, match="last 2 steps were skipped"):
        engine.check()


def test_skips_that_a_shrinking_loss_scale_explains_are_no_error():
    scaler = DynamicScaler(4.0, 1000, 1, 1.0, 2.0, torch.device("cpu"))
    engine = make_engine(Case(), 2, max_skips=2, numerics=Numerics(torch.float16, "separate", scaler=scaler))
    seen = []
    for step in batches(5, 1):
        engine.backward(engine(*step[0]) * float("inf"))
        engine.step()
        seen.append(float(scaler.scale))
        if len(seen) < 4:
            engine.check()
    assert seen == [2.0, 1.0, 1.0, 1.0, 1.0]
    with pytest.raises(FloatingPointError, match="at a loss scale of 1"):
        engine.check()


def test_the_loss_scale_cancels():
    scaler = DynamicScaler(1024.0, 1000, 2, 1.0, 2.0, torch.device("cpu"))
    scaled = make_engine(Case(), 0, numerics=Numerics(scaler=scaler), clip_norm=0.1)
    plain = make_engine(Case(), 0, clip_norm=0.1)
    assert train(scaled, Case()) == train(plain, Case())
    assert float(scaled.grad_norm) == pytest.approx(float(plain.grad_norm), rel=1e-6)


def test_calls_out_of_order_are_explained():
    engine = make_engine(Case(accumulation=2), 1)
    batch = batches(1, 1)[0][0]
    engine.backward(engine(*batch))
    with pytest.raises(RuntimeError, match="after 1 of 2 micro-batches"):
        engine.step()
    engine.backward(engine(*batch))
    with pytest.raises(RuntimeError, match="called 3 times for accumulation=2"):
        engine.backward(engine(*batch))
    engine.step()


def test_a_loss_that_is_no_scalar_is_refused():
    engine = Engine(nn.Linear(10, 1), make_optimizer("sgd"))
    with pytest.raises(ValueError, match=r"\(4, 1\).*mean"):
        engine.backward(engine(torch.randn(4, 10)))


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="nothing to train"):
        Engine(nn.Linear(3, 1).requires_grad_(False), make_optimizer("sgd"))


def real_model(stage: int) -> dict:
    torch.manual_seed(Communicator(torch.device("cpu")).rank)  # every rank has other values: those of rank 0 count
    model = Language()
    expected = {name: value.detach().clone() for name, value in model.named_parameters()}
    engine = Engine(model, make_optimizer("adamw"), stage=stage, groups=GROUPS)
    found = engine.full_state_dict()
    return {"equal": all(torch.equal(found[n], v) for n, v in expected.items()), "sha256": engine.reader.sha256()}


@pytest.mark.parametrize("stage", STAGES)
def test_a_model_with_values_keeps_those_of_rank_0(stage):
    first, second = run_ranks(real_model, 2, stage)
    assert first["equal"] and not second["equal"]
    assert first["sha256"] == second["sha256"]


def first_weights(stage: int) -> str:
    return make_engine(Case(model="tied"), stage).reader.sha256()


def test_first_weights_depend_on_neither_stage_nor_ranks():
    digests = {first_weights(0)}
    for world in (2, 3):
        for stage in STAGES:
            digests.update(run_ranks(first_weights, world, stage))
    assert len(digests) == 1


def test_another_seed_gives_other_weights():
    assert make_engine(Case(), 0, seed=1).reader.sha256() != make_engine(Case(), 0).reader.sha256()


def reading(stage: int) -> dict:
    engine = make_engine(Case(), stage)
    train(engine, Case(steps=2))
    expected = engine.full_state_dict()
    with engine.gathered() as model:
        inside = {name: torch.equal(value, expected[name]) for name, value in model.state_dict().items()}
    try:
        outside = all(torch.equal(value, expected[name]) for name, value in engine.module.state_dict().items())
    except RuntimeError as error:
        outside = str(error)
    train(engine, Case(steps=2))
    return {"inside": all(inside.values()), "outside": outside, "sha256": engine.reader.sha256()}


def test_weights_can_be_read_whole_or_say_how():
    results = {stage: run_ranks(reading, 2, stage)[0] for stage in STAGES}
    assert all(result["inside"] for result in results.values())
    assert all(results[stage]["outside"] is True for stage in (0, 1, 2))
    assert "engine.full_state_dict()" in results[3]["outside"]
    assert len({result["sha256"] for result in results.values()}) == 1
    assert results[3]["sha256"] == run_ranks(without_reading, 2)[0]


def without_reading() -> str:
    engine = make_engine(Case(), 3)
    train(engine, Case(steps=2))
    train(engine, Case(steps=2))
    return engine.reader.sha256()


def evaluation_between_steps(stage: int) -> tuple[str, list[float]]:
    engine, losses = make_engine(Case(), stage), []
    batch = batches(1, 1)[0][0]
    for _ in range(3):
        with torch.no_grad():
            losses.append(engine(*batch).item())
        train(engine, Case(steps=1))
    return engine.reader.sha256(), losses


def test_evaluation_between_steps_disturbs_nothing():
    results = [run_ranks(evaluation_between_steps, 2, stage)[0] for stage in STAGES]
    assert all(result == results[0] for result in results)
    assert len(set(results[0][1])) == 3


def test_parameters_smaller_than_the_number_of_ranks():
    def small() -> list[float]:
        engine = Engine(nn.Linear(10, 1), make_optimizer("sgd", lr=0.01), stage=3, seed=1)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(64, 10, generator=generator)
        losses = []
        for _ in range(20):
            loss = (engine(x) - x.sum(1, keepdim=True)).square().mean()
            engine.backward(loss)
            engine.step()
            losses.append(loss.item())
        return losses

    losses = run_ranks(small, 5)[0]
    assert losses[-1] < 0.5 * losses[0]


def test_units_by_name_class_or_not_at_all():
    assert [u.name for u in make_engine(Case(units=("blocks.0", "head")), 3).units] == ["root", "blocks.0", "head"]
    assert [u.name for u in make_engine(Case(units=("Block",)), 3).units][1:] == ["blocks.0", "blocks.1", "blocks.2"]
    with pytest.raises(ValueError, match="'Blok' matches no module.*Block.*Did you mean Block"):
        make_engine(Case(units=("Blok",)), 3)


def test_small_modules_stay_with_the_root():
    blocks = [u.name for u in make_engine(Case(), 3, min_unit=600).units]
    assert blocks == ["root", "blocks.0", "blocks.1", "blocks.2"]
    assert [u.name for u in make_engine(Case(), 3, min_unit=10**6).units] == ["root"]


class Tower(nn.Module):
    """Forty equal layers of a quarter of a million parameters each."""

    def __init__(self, layers: int = 40):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(512, 512) for _ in range(layers))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


def growth_of_building(stage: int) -> float:
    """Host memory that building the engine takes at most, as a multiple of the model's own."""
    device = torch.device("cpu")
    with torch.device("meta"):
        model, small = Tower(), Tower(1)
    Engine(small, make_optimizer("sgd", momentum=0.0), stage=stage, comm=Communicator(device))  # what it imports
    whole = 4 * sum(p.numel() for p in model.parameters())
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests have freed in this process is not there to be taken
    meter = MemoryMeter(device)
    engine = Engine(model, make_optimizer("sgd", momentum=0.0), stage=stage, comm=Communicator(device))
    assert engine.memory()["optimizer"] == 0
    return meter.peak() / whole


def test_a_model_larger_than_a_rank_may_hold_is_built_shard_by_shard():
    # stage 3 on four ranks: a quarter of weights and of gradients, and buffers for two layers of forty each
    sharded = max(run_ranks(growth_of_building, 4, 3))
    assert sharded < 0.8
    assert min(run_ranks(growth_of_building, 4, 0)) > 1.5  # twice, less what the forks had free already
