"""Gradients give their memory back between the update and the next backward pass, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from tests.ranks import run_ranks
from tests.zero.models import batches
from tests.zero.training import Case, make_engine, train


def digest(case: Case, stage: int, transient: bool) -> str:
    engine = make_engine(case, stage, transient_gradients=transient)
    train(engine, case)
    return engine.reader.sha256()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "case",
    [
        Case(model="unused", steps=3, clip_norm=1.0),
        Case(model="frozen", steps=3, accumulation=3, clip_norm=1.0),
        Case(steps=3, accumulation=2, compute=torch.bfloat16, master="split", reduce=torch.bfloat16),
    ],
    ids=["unused", "frozen accumulated", "bf16"],
)
def test_memory_that_comes_and_goes_changes_nothing(case, stage):
    for world in (1, 2):
        kept = run_ranks(digest, world, case, stage, False)
        assert run_ranks(digest, world, case, stage, True) == kept


def sizes(stage: int) -> list[list[int]]:
    """Bytes of gradients that there are: at first, after each backward pass, after the step, after the next forward."""
    case = Case(steps=2, accumulation=2)
    engine = make_engine(case, stage, transient_gradients=True)
    world, rank = engine.comm.world, engine.comm.rank

    def now() -> int:
        return sum(g.untyped_storage().size() for g in engine.storage.gradients)

    seen = [now()]
    first, second = batches(2, 2 * world)
    for micro in range(2):
        engine.backward(engine(*first[micro * world + rank]))
        seen.append(now())
    engine.step()
    seen.append(now())
    engine(*second[rank])
    return [*seen, now(), engine.memory()["gradients"]]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradients_exist_from_backward_to_the_next_forward(stage):
    for seen in run_ranks(sizes, 2, stage):
        at_first, *alive, after_forward, accounted = seen
        assert at_first == 0 and after_forward == 0
        assert alive == [accounted] * 3


def padding(stage: int) -> bool:
    engine = make_engine(Case(steps=1), stage, transient_gradients=True)
    for unit in engine.storage.trainable:
        unit.hold_gradient()
        unit.gradient.values.fill_(torch.nan)
        unit.spent = True
        unit.drop_gradient()
        unit.hold_gradient()
        used = torch.zeros(unit.layout.total, dtype=torch.bool)
        for view in unit.views(used):
            view.fill_(True)
        span = unit.gradient.span
        assert not unit.gradient.values[~used[span.start : span.stop]].any()
    return True


@pytest.mark.parametrize("stage", [0, 2])
def test_padding_is_zero_whenever_memory_comes(stage):
    assert all(run_ranks(padding, 2, stage))
