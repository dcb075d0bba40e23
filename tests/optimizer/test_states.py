"""States of every optimizer: saved at one stage and number of ranks and read at another bit for bit, and left alone
by a step that is skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.optimizer.test_stages import BF16, RUNS, kind
from tests.optimizer.training import Run, engine_of, train, weights
from tests.ranks import run_ranks
from tests.zero.models import batches
from zerokit.zero.engine import Engine

PLACES = [(0, 1), (3, 2), (1, 3)]
"""Stage and ranks; each state is read by the next one."""


def whole_states(engine: Engine) -> dict[str, list]:
    """What this rank holds of every state: start, size and values."""
    states = engine.storage.states
    held = {f"{s.name}/{s.parameter}": (s.start, s.size, s.values.tolist()) for s in states.slices()}
    return held | {name: (0, len(kept), kept.tolist()) for name, kept in states.kept.items()}


def saved(run: Run, stage: int, source: str | None, target: str) -> dict:
    engine = engine_of(run, stage)
    if source is not None:
        engine.load(Path(source))
    else:
        train(engine, 2)
    held = whole_states(engine)
    engine.save(Path(target))
    return {"states": held, "sha256": engine.reader.sha256()}


def together(ranks: list[dict]) -> dict[str, list]:
    """The whole states, put together from what every rank holds."""
    whole: dict[str, list] = {}
    for rank in ranks:
        for name, (start, size, values) in rank["states"].items():
            row = whole.setdefault(name, [None] * size)
            row[start : start + len(values)] = values
    assert all(None not in row for row in whole.values())
    return whole


@pytest.mark.parametrize("name", RUNS)
def test_states_travel_between_stages_and_ranks_bit_for_bit(name, tmp_path):
    run = Run(kind(name), {"lr": 0.01, **RUNS[name]}, numerics=BF16)
    seen, source = [], None
    for stage, world in PLACES:
        target = str(tmp_path / f"stage{stage}")
        ranks = run_ranks(saved, world, run, stage, source, target)
        seen.append((together(ranks), {rank["sha256"] for rank in ranks}))
        source = target
    assert seen[0][0] == seen[1][0] == seen[2][0]
    assert len(set.union(*(digests for _, digests in seen))) == 1
    assert any(any(values) for values in seen[0][0].values())


def resumed(run: Run, folder: str) -> tuple[str, str]:
    straight = engine_of(run, 3)
    train(straight, 2)
    straight.save(Path(folder))
    train(straight, 2, first=2)
    other = engine_of(run, 1)
    other.load(Path(folder))
    train(other, 2, first=2)
    return straight.reader.sha256(), other.reader.sha256()


@pytest.mark.parametrize(
    "name", ["muon", "adafactor", "adam8bit", "schedule_free_adamw", "torch", "lamb/int8", "adamw/bf16"]
)
def test_a_training_goes_on_as_if_it_had_not_been_saved(name, tmp_path):
    for one, other in run_ranks(resumed, 2, Run(kind(name), {"lr": 0.01, **RUNS[name]}), str(tmp_path / "state")):
        assert one == other


def step_with(engine: Engine, factor: float) -> None:
    (batch,) = batches(1, 1)[0]
    engine.backward(engine(*batch) * factor)
    engine.step()


@pytest.mark.parametrize("selects", [True, False])
@pytest.mark.parametrize("name", RUNS)
def test_a_skipped_step_leaves_everything_as_it_was(name, selects):
    engine = engine_of(Run(kind(name), {"lr": 0.01, **RUNS[name]}))
    engine._update.selects = selects  # as on a GPU, where the host does not know whether the step is taken
    train(engine, 2)
    before, states = weights(engine), whole_states(engine)
    step_with(engine, float("inf"))
    assert int(engine.steps_skipped) == 1
    assert all(torch.equal(before[key], value) for key, value in weights(engine).items())
    assert whole_states(engine) == states
    step_with(engine, 1.0)
    assert any(not torch.equal(before[key], value) for key, value in weights(engine).items())
    assert all(value.isfinite().all() for value in weights(engine).values())
