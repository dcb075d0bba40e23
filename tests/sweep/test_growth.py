from __future__ import annotations

import re
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from tests.commands import python
from tests.sweep.cell_worker import FILLS, RAISES
from zerokit.config.identity import ranks
from zerokit.sweep.cell import State
from zerokit.sweep.growth import Search, search

COMMAND = ("-m", "tests.sweep.cell_worker", "experiment=largest_model", "launch.nproc=1", "launch.device=cpu")
COMMAND += (
    "hydra.sweep.dir=sweep",
    "scheduler=constant",
    "estimate.run=false",
    "hydra.sweeper.params.zero='stage0,stage2'",
)


def ended(state, reason=""):
    return SimpleNamespace(state=state, reason=reason)


@given(st.integers(0, 300), st.integers(1, 9), st.floats(1.0, 2.0))
def test_a_search_ends_near_the_largest_that_fits(largest, start, accuracy):
    one, tried = Search(start, 256, accuracy), []
    while (value := one.next) is not None:
        assert value not in tried and value <= 256
        tried.append(value)
        one.learn(value, ended(State.FINISHED if value <= largest else State.TOO_LARGE))
    assert one.fits <= largest
    assert one.fits == min(largest, 256) or one.too_large <= max(accuracy * one.fits, one.fits + 1)
    assert len(tried) <= 18


def test_a_failure_that_is_not_about_memory_ends_a_search():
    one = Search(4, 256, 1.1, fits=4)
    one.learn(8, ended(State.FAILED, "ValueError: the cause"))
    assert (one.next, one.fits, one.too_large) == (None, 4, None)
    two = Search(4, 256, 1.1, fits=4)
    two.learn(8, ended(State.FAILED, "rank 0: OutOfMemoryError: CUDA out of memory"))
    assert (two.next, two.too_large) == (6, 8)


def test_each_round_launches_one_cell_of_every_combination():
    rounds = []

    class Launcher:
        def launch(self, overrides, first):
            rounds.append((first, [job[-1] for job in overrides]))
            fits = [int(job[-1].partition("=")[2]) <= (3 if "zero=stage0" in job else 6) for job in overrides]
            return [SimpleNamespace(cell=ended(State.FINISHED if fit else State.TOO_LARGE)) for fit in fits]

    found = search(Launcher(), ["zero=stage0,stage3"], "model.layers", start=2, most=64, accuracy=1.0)
    assert found == {"zero=stage0": 3, "zero=stage3": 6}
    assert rounds[0] == (0, ["++model.layers=2", "++model.layers=2"])
    assert rounds[2] == (4, ["++model.layers=3", "++model.layers=8"])


def test_the_overlay_grows_the_model_until_memory_is_full(tmp_path):
    result = python(*COMMAND, f"train.seed={FILLS}", "hydra.sweeper.accuracy=1.0", cwd=tmp_path, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if re.match(r"stage\d layers=\d+ ", line)]
    sizes = {
        stage: {int(line[1].partition("=")[2]): line[2] for line in lines if line[0] == stage}
        for stage in ("stage0", "stage2")
    }
    assert [max(n for n, state in sizes[stage].items() if state == "finished") for stage in sizes] == [5, 15]
    assert sizes["stage0"][6] == sizes["stage2"][16] == "too", "too large, which is no failure"
    broken = python(*COMMAND, f"train.seed={RAISES}", cwd=tmp_path, timeout=120)
    assert broken.returncode == 1, "a failure that is not the end of memory is one"


def test_numbers_of_ranks_are_powers_of_two_and_all():
    assert [ranks(most) for most in (1, 2, 3, 8)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8]]
