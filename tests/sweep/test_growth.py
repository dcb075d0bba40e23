from __future__ import annotations

import re
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from tests.commands import python
from tests.config.arguments import config
from tests.sweep.cell_worker import FILLS, RAISES
from zerokit.config.host import ranks
from zerokit.sweep.cell import State
from zerokit.sweep.growth import Search, search
from zerokit.sweep.predict import Forecast

COMMAND = ("-m", "tests.sweep.cell_worker", "experiment=largest_model", "launch.nproc=1", "launch.device=cpu")
COMMAND += (
    "hydra.sweep.dir=sweep",
    "scheduler=constant",
    "estimate.run=false",
    "hydra.sweeper.params.zero='stage0,stage2'",
)


def ended(state, reason=""):
    return SimpleNamespace(state=state, reason=reason)


class Launcher:
    """Launches nothing: `largest` says what fits of each combination, `predicted` what is predicted to."""

    def __init__(self, largest, predicted=None):
        self.largest, self.predicted = largest, predicted
        self.rounds, self.conclusions = [], []
        self.conclude = self.conclusions.append

    def forecast(self, job):
        return self.predicted and Forecast(*((1.0, 2.0) if self.fits(job, self.predicted) else (2.0, 1.0)))

    def launch(self, overrides, first):
        self.rounds.append((first, [job[-1] for job in overrides]))
        ends = {True: ended(State.FINISHED), False: ended(State.TOO_LARGE, "it is full")}
        return [SimpleNamespace(cell=ends[self.fits(job, self.largest)]) for job in overrides]

    @staticmethod
    def fits(job, largest):
        return int(job[-1].partition("=")[2]) <= next(most for word, most in largest.items() if word in job)


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
    launcher = Launcher({"zero=stage0": 3, "zero=stage3": 6})
    found = search(launcher, ["zero=stage0,stage3"], "model.layers", start=2, most=64, accuracy=1.0)
    assert found == {"zero=stage0": 3, "zero=stage3": 6}
    assert launcher.rounds[0] == (0, ["++model.layers=2", "++model.layers=2"])
    assert launcher.rounds[2] == (4, ["++model.layers=3", "++model.layers=8"])
    assert launcher.conclusions == [
        "stage0: largest model.layers 3; 4 does not fit: it is full",
        "stage3: largest model.layers 6; 7 does not fit: it is full",
    ]


def test_cells_run_from_the_largest_value_that_is_predicted_to_fit():
    launcher = Launcher({"zero=stage0": 30, "zero=stage3": 70}, {"zero=stage0": 40, "zero=stage3": 64})
    found = search(launcher, ["zero=stage0,stage3"], "model.layers", start=1, most=64, accuracy=1.1)
    assert launcher.rounds[0] == (0, ["++model.layers=40", "++model.layers=64"])
    assert found == {"zero=stage0": 30, "zero=stage3": 64}
    assert [len(jobs) for _, jobs in launcher.rounds[1:]] == [1] * (len(launcher.rounds) - 1)
    assert launcher.conclusions == [
        "stage0: largest model.layers 30; 32 does not fit: it is full",
        "stage3: largest model.layers 64, the most that is tried (hydra.sweeper.most)",
    ]


def test_nothing_that_fits_is_said():
    launcher = Launcher({"zero=stage0": 0}, {"zero=stage0": 0})
    assert search(launcher, ["zero=stage0"], "model.layers", start=1, most=64, accuracy=1.1) == {"zero=stage0": 0}
    assert launcher.conclusions == ["largest model.layers none; 1 does not fit: it is full"]


def test_only_on_a_cpu_has_the_overlay_a_limit_of_its_own(monkeypatch):
    words = ("experiment=largest_model", "hydra.mode=RUN")
    assert config(*words, "launch.device=cpu").estimate.memory_gib == 0.5
    monkeypatch.setattr("zerokit.config.host.visible_gpus", lambda: 2)
    assert config(*words, "launch.device=auto").estimate.memory_gib is None
    assert config(*words, "launch.device=auto", "estimate.memory_gib=7").estimate.memory_gib == 7


def test_the_overlay_grows_the_model_until_memory_is_full(tmp_path):
    result = python(*COMMAND, f"train.seed={FILLS}", "hydra.sweeper.accuracy=1.0", cwd=tmp_path, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if re.match(r"stage\d layers=\d+ ", line)]
    sizes = {
        stage: {int(line[1].partition("=")[2]): line[2] for line in lines if line[0] == stage}
        for stage in ("stage0", "stage2")
    }
    assert [max(n for n, state in sizes[stage].items() if state == "finished") for stage in sizes] == [5, 15]
    assert "stage2: largest model.layers 15; 16 does not fit: " in result.stdout
    assert "- stage2: largest model.layers 15; 16 does not fit: " in (tmp_path / "sweep" / "report.md").read_text()
    assert "<p>stage2: largest model.layers 15; 16 does not fit: " in (tmp_path / "sweep" / "report.html").read_text()
    assert sizes["stage0"][6] == sizes["stage2"][16] == "too", "too large, which is no failure"
    broken = python(*COMMAND, f"train.seed={RAISES}", cwd=tmp_path, timeout=120)
    assert broken.returncode == 1, "a failure that is not the end of memory is one"


def test_a_rank_has_as_many_threads_alone_as_beside_others(monkeypatch):
    monkeypatch.setattr("zerokit.config.host.cores", lambda: 6)
    monkeypatch.setattr("zerokit.config.host.visible_gpus", lambda: 3)
    words = ("experiment=scaling", "hydra.mode=RUN")
    assert [config(*words, f"launch.nproc={world}").launch.threads for world in (1, 2)] == [2, 2]


def test_numbers_of_ranks_are_powers_of_two_and_all():
    assert [ranks(most) for most in (1, 2, 3, 8)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8]]
