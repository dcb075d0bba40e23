"""A fixed range of random programs, and every feature by itself at stage 3. `make test-fuzz` runs more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

from tests.fuzz.program import Program, generate, singles
from tests.fuzz.run import Runner

PARTS, PROGRAMS = 4, 50
"""Parts run side by side; programs of each."""


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.stop()


def _check(programs: Iterable[Program], runner: Runner) -> None:
    counts, wrong = Counter(), []
    for program in programs:
        result = runner(program)
        counts[result.outcome] += 1
        if not result.fine:
            wrong.append(f"{program}\n  {result.outcome}: {result.reason.splitlines()[0]}")
    assert not wrong, f"{dict(counts)}; `python -m tests.fuzz --seed SEED --programs 1` shrinks.\n" + "\n".join(wrong)
    assert counts["same"] >= 0.75 * counts.total(), counts


@pytest.mark.parametrize("part", range(PARTS))
def test_random_programs(part, runner):
    _check(map(generate, range(part, PARTS * PROGRAMS, PARTS)), runner)


def test_each_feature_by_itself(runner):
    _check(singles(stage=3), runner)


def test_a_seed_gives_one_program():
    assert [generate(seed) for seed in range(20)] == [generate(seed) for seed in range(20)]
    assert len({generate(seed) for seed in range(200)}) == 200
