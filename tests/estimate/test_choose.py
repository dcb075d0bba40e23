"""`zero=auto`: what it chooses, and what it does when that does not fit after all."""

from __future__ import annotations

import json
import re

import pytest

from tests.commands import python, zerokit
from tests.config.arguments import config
from zerokit.config.batch import Batch
from zerokit.config.errors import ConfigError
from zerokit.estimate.choose import batches, choose
from zerokit.estimate.simulate import Simulator
from zerokit.estimate.start import start
from zerokit.record.hardware import ENTRIES, GIB
from zerokit.sweep.cell import Cell

SMALL = ("model.dim=64", "model.layers=1", "model.heads=4", "data=synthetic", "data.seq_len=64", "zero.min_unit=1000")


def auto(*words: str, gib: float | None = None):
    limit = () if gib is None else (f"estimate.memory_gib={gib}",)
    return config(*SMALL, "zero=auto", "batch.global=16", *limit, *words)


@pytest.fixture(scope="module")
def free():
    return choose(auto(), 2, ENTRIES["cpu"])


def test_with_room_it_takes_the_fastest(free):
    best = free.fitting[0]
    assert len(free.fitting) == free.looked == 3 * 4 * 5
    assert best.prediction.seconds == pytest.approx(min(c.prediction.seconds for c in free.fitting), rel=0.01)
    assert (best.cfg.checkpointing.name, best.cfg.zero.auto) == ("none", False)
    for line in free.why(best):
        assert len(line) < 110
    exact = Simulator(best.cfg, ENTRIES["cpu"]).predict(best.cfg, 2)
    assert best.prediction.memory == exact.memory


def test_a_model_of_many_layers_may_recompute_one_block_in_four_whole():
    words = ("model.layers=8", "batch.micro=8", "checkpointing=every_k", "checkpointing.k=3")
    fitting = choose(auto(*words), 2, ENTRIES["cpu"]).fitting
    tried = {str(c).split(", ")[1]: c.prediction for c in fitting if c.prediction.stage == 3}
    order = ("none", "selective", "every_k k=4 others=selective", "every_k k=2 others=selective", "full")
    assert set(tried) == {f"checkpointing {each}" for each in (*order, "every_k k=3 others=none")}
    activations = [tried[f"checkpointing {each}"].memory["activations"] for each in order]
    assert activations == sorted(activations, reverse=True) and len(set(activations)) == len(order)


def test_with_less_room_it_takes_what_fits(free):
    sizes = sorted(c.prediction.peak for c in free.fitting if c.prediction.micro == 8)
    gib = sizes[len(sizes) // 2] / GIB
    chosen = choose(auto("batch.micro=8", gib=gib), 2, ENTRIES["cpu"])
    assert 0 < len(chosen.fitting) < chosen.looked == 20
    assert chosen.fitting[0].prediction.predicted_gib <= gib
    assert chosen.fitting[0].prediction.seconds >= 0.99 * free.fitting[0].prediction.seconds
    following = chosen.after(chosen.fitting[0])
    assert following is None or following.prediction.peak < chosen.fitting[0].prediction.peak


def test_what_is_added_is_close_to_what_is_predicted(free):
    simulator = Simulator(free.fitting[0].cfg, ENTRIES["cpu"])
    for candidate in free.fitting[1::11]:
        exact = simulator.predict(candidate.cfg, 2)
        assert candidate.prediction.peak == pytest.approx(exact.peak, rel=0.05)
        assert candidate.prediction.seconds == pytest.approx(exact.seconds, rel=0.05)


def test_nothing_fits():
    with pytest.raises(
        ConfigError, match=r"nothing is predicted to fit. The least is .* MiB \(stage .*, and a rank may take 10.5 KiB"
    ):
        choose(auto("batch.micro=1", gib=1e-5), 2, ENTRIES["cpu"])


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        (("batch.global=16",), [8, 4, 1]),
        (("batch.global=12",), [6, 2, 1]),
        (("batch.global=2",), [1]),
        (("batch.global=16", "batch.micro=2"), [2]),
    ],
)
def test_the_global_batch_stays(words, sizes):
    found = batches(config("zero=auto", *words), 2)
    assert [batch.micro for batch in found] == sizes
    assert all(isinstance(b, Batch) and b.micro * b.accumulation * 2 == b.global_ for b in found)


SCRIPT = """
from dataclasses import dataclass
import torch
from torch import nn
import zerokit

class Hungry(nn.Sequential):
    def forward(self, x):
        if not x.is_meta and len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(x)

@zerokit.register("model", "hungry")
def build(options, data):
    middle = (nn.Tanh() for _ in range(30))
    return Hungry(nn.Linear(data.in_features, 64), *middle, nn.Linear(64, data.out_features))

zerokit.main()
"""


def test_what_runs_out_of_memory_is_followed_by_the_next(tmp_path):
    (tmp_path / "mine.py").write_text(SCRIPT)
    words = ("model=hungry", "data=synthetic", "data.task=regression", "launch=cpu", "tracker=none", "train.steps=2")
    words += ("zero=auto", "batch.global=16", "hydra.run.dir=run", "train.eval_samples=0")
    result = python("mine.py", *words, cwd=tmp_path, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    *failed, last = summary["choices"]
    assert failed and all("OutOfMemory" in a["error"] or "out of memory" in a["error"].lower() for a in failed)
    assert (summary["status"], last["status"], last["error"]) == ("finished", "finished", None)
    assert result.stdout.count("ran out of memory.") == len(failed)
    assert len(summary["why"]) == 2
    assert summary["predicted_gib"] == last["predicted_gib"] > 0


def test_a_sweep_knows_again_what_was_chosen_for_its_cell(tmp_path):
    asked = auto("data.seq_len=16", "batch.global=2", "train.steps=2", "scheduler=constant")
    start(asked, tmp_path, "tests.sweep.cell_worker:run")
    assert Cell([], tmp_path, asked).has_finished()
    assert not Cell([], tmp_path, auto("data.seq_len=16", "batch.global=4", "train.steps=2")).has_finished()


def test_a_finished_run_that_is_started_again_is_left_as_it_is(tmp_path, capfd):
    words = ("batch.global=2", "train.steps=1", "train.sample_tokens=0", "train.eval_samples=0", "launch.nproc=1")
    asked = auto(*words, "state.every=1", "tracker=none")
    start(asked, tmp_path)
    path = tmp_path / "summary.json"
    text, written = path.read_text(), path.stat().st_mtime_ns
    assert [choice["status"] for choice in json.loads(text)["choices"]] == ["finished"]
    start(asked, tmp_path)
    assert "nothing left to do: step 1 of 1" in capfd.readouterr().out
    assert (path.read_text(), path.stat().st_mtime_ns) == (text, written)


def test_every_run_has_its_prediction(tmp_path):
    words = (*SMALL, "launch=cpu", "tracker=none", "train.steps=2", "train.log_every=1", "train.sample_tokens=0")
    result = zerokit(*words, "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    predicted = summary["predicted_gib"]
    assert predicted == summary["predicted"]["peak"] / GIB > 0
    assert [row["memory/predicted_gib"] for row in rows] == [predicted] * 2
    assert "predicted" in result.stdout
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"gpt · [\d.]+k parameters · stage 2 · fp32 · 2 × cpu", lines[0]) and "synthetic" in lines[1]
    assert max(map(len, lines)) <= 80
    storage, measured = summary["predicted"]["storage"], summary["memory"][0]
    assert {kind: measured[kind] for kind in ("parameters", "gradients", "optimizer")} == {
        kind: storage[kind] for kind in ("parameters", "gradients", "optimizer")
    }


def test_a_run_does_not_need_its_prediction(tmp_path):
    script = SCRIPT.replace("if not x.is_meta and len(x) > 2:", "if x.is_meta:").replace("torch.OutOf", "Key")
    (tmp_path / "mine.py").write_text(script.replace("KeyMemoryError", "KeyError"))
    words = ("model=hungry", "data=synthetic", "data.task=regression", "launch=cpu", "tracker=none", "train.steps=1")
    result = python("mine.py", *words, "batch.global=4", "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["predicted_gib"] is None and "KeyError" in summary["prediction_error"]
