from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.commands import python
from zerokit.callbacks import Callback
from zerokit.train.callbacks import Callbacks

SCRIPT = """
from dataclasses import dataclass
import zerokit

@dataclass
class Options:
    stop_at: int = 0
    '''Step after which the run ends; 0 lets it go on.'''

class Diary(zerokit.Callback):
    def __init__(self, options, run):
        self.options, self.run = options, run

    def note(self, *words):
        with open(f"{type(self).__name__}{self.run.rank}.txt", "a") as file:
            print(*words, file=file)
        with open(f"all{self.run.rank}.txt", "a") as file:
            print(type(self).__name__, words[0], file=file)

    def on_start(self):
        self.note("start", self.run.trainer.progress.step)

    def on_step(self, step, metrics):
        self.note("step", step, metrics is not None)
        if step == self.options.stop_at:
            self.run.stop("it was told to")

    def on_evaluate(self, step, metrics):
        self.note("evaluate", step, "eval/loss" in metrics)

    def on_save(self, step, path):
        self.note("save", step, path.is_dir())

    def on_end(self, summary):
        self.note("end", summary["status"], "weights_sha256" in summary)
        summary["diary"] = "kept"

class Second(Diary):
    pass

zerokit.register("callbacks", "diary", Options)(Diary)
zerokit.register("callbacks", "second", Options)(Second)
zerokit.main()
"""
WORDS = (
    "model=mlp", "data=synthetic", "data.task=regression", "tracker=none", "launch.nproc=2", "launch.device=cpu",
    "train.log_every=1", "train.eval_every=2", "train.eval_samples=4", "launch.threads=1", "train.steps=6",
    "state.every=2", "state.asynchronous=false", "hydra.run.dir=run", "estimate.run=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a run with two callbacks of a script has left its notes."""
    here = tmp_path_factory.mktemp("callbacks")
    (here / "diary.py").write_text(SCRIPT)
    result = python("diary.py", *WORDS, "callbacks=[second,diary]", "callbacks.diary.stop_at=4", cwd=here, timeout=300)
    assert result.returncode == 0, result.stderr
    return here


@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_hears_of_everything(folder, rank):
    notes = (folder / f"Diary{rank}.txt").read_text().splitlines()
    assert notes == [
        "start 0", "step 1 True", "evaluate 2 True", "step 2 True", "save 2 True", "step 3 True", "evaluate 4 True",
        "step 4 True", "save 4 True", "end finished True",
    ]  # fmt: skip


def test_the_order_is_that_of_the_configuration_and_at_the_end_the_other(folder):
    heard = [line.split() for line in (folder / "all0.txt").read_text().splitlines()]
    assert Counter(name for name, _ in heard) == {"Second": len(heard) // 2, "Diary": len(heard) // 2}
    first = [name for name, event in heard if event != "end"][::2]
    assert set(first) == {"Second"}
    assert [name for name, event in heard if event == "end"] == ["Diary", "Second"]


def test_a_run_that_a_callback_stops_has_finished(folder):
    summary = json.loads((folder / "run" / "summary.json").read_text())
    told = ("status", "steps", "stopped", "diary")
    assert [summary[key] for key in told] == ["finished", 4, "it was told to", "kept"]
    assert summary["weights_sha256"]
    assert [path.name for path in sorted((folder / "run" / "state").iterdir())] == ["step-00000002", "step-00000004"]


class Noted(Callback):
    def __init__(self, name, heard):
        self.name, self.heard = name, heard

    def on_end(self, summary):
        self.heard.append((self.name, summary["status"]))


class Broken(Noted):
    def on_end(self, summary):
        super().on_end(summary)
        raise ValueError("no")


def test_after_an_error_the_others_hear_of_the_end_once(caplog):
    heard = []
    callbacks = Callbacks([Noted("a", heard), Broken("b", heard), Noted("c", heard)])
    with pytest.raises(ValueError, match="no"):
        callbacks.on_end({"status": "finished"})
    callbacks.on_failure({"status": "failed"})
    assert heard == [("c", "finished"), ("b", "finished"), ("b", "failed"), ("a", "failed")]
    assert "a callback failed at the end of a failed run" in caplog.text


def test_what_nobody_overrides_is_not_called():
    callbacks = Callbacks([Noted("a", [])] * 3)
    assert callbacks._on_step == callbacks._on_evaluate == ()
