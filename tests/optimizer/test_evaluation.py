"""Schedule-free training evaluates and exports its average, and goes on from the weights in training."""

from __future__ import annotations

import pytest
import torch

from tests.optimizer.test_references import LR, by_formula, schedule_free
from tests.optimizer.test_stages import BF16
from tests.optimizer.training import Run, engine_of, plain, train, weights
from tests.ranks import run_ranks
from tests.zero.models import batches
from zerokit.zero.engine import Numerics


def test_the_evaluation_weights_are_the_papers_average():
    run, averages = Run("schedule_free_adamw", LR), {}

    def watched(p, g, state, step, decay):
        schedule_free(p, g, state, step, decay)
        averages[id(p)] = state["x"].clone()

    def steppers(named):
        names.update({id(p): name for name, p in named.items()})
        return by_formula(watched)(named)

    names: dict[int, str] = {}
    engine = engine_of(run)
    train(engine, run.steps)
    plain(run, steppers)
    mine = engine.full_state_dict()
    for key, x in averages.items():
        torch.testing.assert_close(mine[names[key]], x, rtol=2e-5, atol=5e-6)


def evaluated(numerics: Numerics, stage: int) -> dict:
    """Digests with and without an evaluation between steps, and losses in it."""
    run = Run("schedule_free_adamw", LR, numerics=numerics)
    one, other = engine_of(run, stage), engine_of(run, stage)
    train(one, 3)
    train(other, 3)
    (batch,) = batches(1, 1)[0]
    before = other.reader.sha256()
    with torch.no_grad(), other.evaluating():
        loss = float(other(*batch))
        inside = other.reader.sha256()
        with other.evaluating():
            again = other.reader.sha256()
    after = other.reader.sha256()
    with torch.no_grad():
        outside = float(other(*batch))
    train(one, 2, first=3)
    train(other, 2, first=3)
    return {"digests": (before, after), "inside": (inside, again), "losses": (loss, outside),
            "end": (one.reader.sha256(), other.reader.sha256())}  # fmt: skip


@pytest.mark.parametrize("numerics", [Numerics(), BF16], ids=["fp32", "bf16"])
def test_an_evaluation_changes_nothing_at_any_stage(numerics):
    seen = [run_ranks(evaluated, 2, numerics, stage) for stage in range(4)]
    for ranks in seen:
        for rank in ranks:
            assert rank["digests"][0] == rank["digests"][1] != rank["inside"][0] == rank["inside"][1]
            assert rank["losses"][0] != rank["losses"][1]
            assert rank["end"][0] == rank["end"][1]
    assert len({rank["inside"] for ranks in seen for rank in ranks}) == 1
    assert len({rank["losses"] for ranks in seen for rank in ranks}) == 1


def test_other_optimizers_evaluate_what_they_train():
    engine = engine_of(Run("adamw"))
    before = weights(engine)
    with engine.evaluating():
        assert all(torch.equal(before[name], value) for name, value in engine.whole_weights())
