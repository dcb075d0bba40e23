"""Hydra's other launchers and sweepers with zerokit's jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import python
from tests.sweep.cell_worker import FINE, RAISES

CELLS = ("-m", "tests.sweep.cell_worker", "-m", "launch.device=cpu", "train.steps=4", "scheduler=constant")
CELLS += ("hydra.sweep.dir=sweep", "estimate.run=false")
LOCAL = ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=2")


def summaries(folder: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted((folder / "sweep").glob("*/summary.json"))]


def test_each_process_of_a_submitit_job_joins_the_others(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    words = ("-m", "tests.launch.fake_worker", "-m", "zero=stage1,stage2", "hydra.sweep.dir=sweep", "launch.device=cpu")
    result = python(*words, *LOCAL, "hydra.launcher.tasks_per_node=2", cwd=tmp_path, timeout=60)
    assert result.returncode == 0, result.stderr
    for stage in (1, 2):
        (cell,) = (tmp_path / "sweep").glob(f"stage{stage}-*")
        for rank in (0, 1):
            assert (cell / "logs" / f"result{rank}").read_text() == f"{stage} 4.0\n"
        assert not (cell / "attempts").exists(), "one process leads, the other follows"


def test_a_submitit_sweep_resumes_and_a_component_of_the_script_travels(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "import zerokit, zerokit.launch\n"
        "zerokit.launch.WORKER = 'tests.sweep.cell_worker:run'\n"
        "@dataclass\n"
        "class Options:\n"
        "    width: int = 3\n"
        '    """Width."""\n'
        "@zerokit.register('model', 'mine', Options)\n"
        "def build(options, data): ...\n"
        "if __name__ == '__main__':\n"
        "    zerokit.main()\n"
    )
    words = ("mine.py", *CELLS[2:], *LOCAL, "model=mine", f"train.seed={FINE},{RAISES}", "launch.nproc=1")
    first = python(*words, cwd=tmp_path, timeout=60)
    assert first.returncode == 1
    assert "zerokit: rank 0 of 1 failed: ValueError: the cause" in first.stderr
    assert sorted(run["status"] for run in summaries(tmp_path)) == ["failed", "finished"]
    (fine,) = [file for file in (tmp_path / "sweep").glob("*/summary.json") if "finished" in file.read_text()]
    written = fine.stat().st_mtime_ns
    assert python(*words, cwd=tmp_path, timeout=60).returncode == 1
    assert fine.stat().st_mtime_ns == written, "a finished cell is skipped"
    report = python("-m", "zerokit", "report", "sweep", cwd=tmp_path)
    assert report.returncode == 0 and "the cause" in (tmp_path / "sweep" / "report.md").read_text()


def test_optuna_searches_on_after_a_failure_and_replays_what_has_finished(tmp_path):
    pytest.importorskip("optuna", reason="the extra optuna is not installed")
    search = ("hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=1", "hydra.sweeper.n_trials=5")
    words = (*CELLS, *search, "hydra.sweeper.n_jobs=1", "zero=stage0,stage1,stage2", f"train.seed={FINE},{RAISES}")
    result = python(*words, "launch.nproc=1", cwd=tmp_path, timeout=200)
    assert result.returncode == 1, result.stderr
    states = [run["status"] for run in summaries(tmp_path)]
    assert {"finished", "failed"} == set(states)
    best = (tmp_path / "sweep" / "optimization_results.yaml").read_text()
    losses = [run["loss"] for run in summaries(tmp_path) if run["status"] == "finished"]
    assert f"best_value: {min(losses)}" in best
    again = python(*words, "launch.nproc=1", cwd=tmp_path, timeout=200)
    assert again.stdout.count("finished *") == states.count("finished")


def test_a_plugin_that_is_not_installed_is_named(tmp_path):
    result = python("-m", "zerokit", "-m", "hydra/sweeper=optuna", "zero=stage0", "hydra.sweeper.n=1", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
