"""Micro-batches of a step: counted, ended by the caller, or ended by the step itself."""

from __future__ import annotations

import pytest

from tests.ranks import run_ranks
from tests.zero.models import batches
from tests.zero.training import GROUPS, Case, make_engine, train
from zerokit.zero.engine import Engine
from zerokit.zero.numerics import ParameterGroups
from zerokit.zero.update.kernel import Group

STAGES = [0, 1, 2, 3]
MICROS = 4  # a power of two: shares are exact


def ended(stage: int, ends: str) -> str:
    """Digest after two steps of four micro-batches whose last is found by count, by the caller, or by the step."""
    engine = make_engine(Case(accumulation=MICROS if ends == "counted" else 1), stage)
    for step in batches(2, MICROS * engine.comm.world):
        for micro in range(MICROS):
            loss = engine(*step[micro * engine.comm.world + engine.comm.rank])
            if ends == "counted":
                engine.backward(loss)
            else:
                engine.backward(loss, share=1 / MICROS, last=ends == "said" and micro == MICROS - 1)
        engine.step()
    return engine.reader.sha256()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("world", [1, 2])
def test_who_ends_the_step_does_not_matter(stage, world):
    digests = {digest for ends in ("counted", "said", "by the step") for digest in run_ranks(ended, world, stage, ends)}
    assert len(digests) == 1


def forgotten(stage: int) -> tuple[str, str]:
    digests = []
    for forget in (False, True):
        engine = make_engine(Case(accumulation=2), stage)
        if forget:
            engine.backward(engine(*batches(1, 1)[0][0]) * 7)
            engine.zero_grad()
        train(engine, Case(accumulation=2, steps=2))
        digests.append(engine.reader.sha256())
    return tuple(digests)


@pytest.mark.parametrize("stage", STAGES)
def test_zero_grad_forgets_the_micro_batches_of_the_step(stage):
    first, second = run_ranks(forgotten, 2, stage)[0]
    assert first == second


def test_a_step_needs_micro_batches_and_ends_once():
    engine = make_engine(Case(), 1)
    batch = batches(1, 1)[0][0]
    with pytest.raises(RuntimeError, match="engine.step was called after 0 of 1"):
        engine.step()
    engine.backward(engine(*batch), last=False)
    engine.backward(engine(*batch), last=True)
    with pytest.raises(RuntimeError, match="after the last micro-batch of the step"):
        engine.backward(engine(*batch), last=False)
    engine.step()


def test_a_graph_that_is_kept_can_be_followed_again():
    def trained(again: bool) -> str:
        engine = make_engine(Case(optimizer="sgd"), 3)
        batch = batches(1, engine.comm.world)[0][engine.comm.rank]
        loss = engine(*batch)
        engine.backward(loss, last=False, share=0.5, retain_graph=again)
        engine.backward(loss if again else engine(*batch), last=True, share=0.5)
        engine.step()
        return engine.reader.sha256()

    assert run_ranks(trained, 2, True) == run_ranks(trained, 2, False)


def test_learning_rates_of_groups():
    def weights(factors: tuple[float, float], rates: list | None) -> dict:
        groups = ParameterGroups(tuple(Group(0.1, factor) for factor in factors), GROUPS.of)
        engine: Engine = make_engine(Case(), 1, groups=groups)
        for arguments in rates or [None]:
            if arguments is not None:
                engine.set_lr(*arguments)
            train(engine, Case(steps=1))
        return {name: value.tolist() for name, value in engine.whole_weights()}

    assert weights((2.0, 0.5), [(0.1,)]) == weights((1.0, 1.0), [(1.0, [0.2, 0.05])])
    assert weights((2.0, 0.5), [(0.1,)] * 2) == weights((1.0, 1.0), [(1.0, [0.2, 0.05]), (1.0,)])
