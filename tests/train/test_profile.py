from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.commands import zerokit
from zerokit.record.trace import load_events

SMALL = ("model.dim=32", "model.layers=1", "model.heads=4", "data.seq_len=32", "train.log_every=1")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    here = tmp_path_factory.mktemp("profile")
    words = ("debug=profile", "train.steps=7", "profile.after=3", "profile.steps=2", "zero=stage2",
             "batch.accumulation=2", *SMALL)  # fmt: skip
    result = zerokit(*words, f"hydra.run.dir={here / 'run'}", cwd=here, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stderr == "", "the profiler itself writes nothing to the terminal"
    return here / "run"


def test_every_rank_leaves_a_trace_of_the_asked_steps(run):
    for rank in (0, 1):
        events = load_events(run / "profile" / f"rank{rank}.json.gz")
        steps = [event["name"] for event in events if event["name"].startswith("ProfilerStep")]
        assert steps == ["ProfilerStep#3", "ProfilerStep#4"]
        names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
        counts = {name: names.count(name) for name in ("forward", "backward", "update")}
        assert counts == {"forward": 4, "backward": 4, "update": 2}


def test_figures_are_per_step(run):
    for rank in (0, 1):
        figures = json.loads((run / "profile" / f"rank{rank}.figures.json").read_text())
        assert (figures["rank"], figures["device"], figures["steps"]) == (rank, "cpu", 2)
        assert 0 < figures["exposed_ms"] <= figures["communication_ms"] <= figures["span_ms"]
        assert len(figures["kernels"]) == 10
        collectives = [k for k in figures["kernels"] if k["name"].startswith("gloo:")]
        assert collectives and all(k["kind"] == "communication" for k in collectives)


def test_the_report_shows_them(run):
    page = (run / "report.html").read_text()
    section = re.search(r'<section id="profile">.*?</section>', page, re.DOTALL)[0]
    assert "2 steps traced" in section and "gloo:all_reduce" in section
    assert json.loads((run / "summary.json").read_text())["files"]["profile"] == "profile"


def test_the_loss_is_that_of_a_run_without_a_trace(run, tmp_path):
    words = ("debug=profile", "profile.steps=0", "train.steps=7", "zero=stage2", "batch.accumulation=2", *SMALL)
    result = zerokit(*words, "hydra.run.dir=run", cwd=tmp_path, timeout=120)
    assert result.returncode == 0, result.stderr
    digests = [
        json.loads((folder / "summary.json").read_text())["weights_sha256"] for folder in (run, tmp_path / "run")
    ]
    assert digests[0] == digests[1]
    assert not (tmp_path / "run" / "profile").exists()


def test_steps_that_the_training_does_not_reach_are_refused(tmp_path):
    result = zerokit("debug=profile", "train.steps=12", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("zerokit: profile.after + profile.steps = 10 + 3 exceeds train.steps=12")
