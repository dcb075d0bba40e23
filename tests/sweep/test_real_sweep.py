"""Sweeps of real trainings: what W&B recorded of the cells, and a half-done cell that goes on from its state."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.commands import zerokit

TINY = ("-m", "zero=stage1,stage2", "precision=fp32", "launch=single", "launch.device=cpu", "data=synthetic")
TINY += ("model.dim=32", "model.layers=1", "model.heads=4", "train.steps=4", "train.log_every=1", "data.seq_len=32")
TINY += ("train.eval_samples=0", "train.sample_tokens=0", "estimate.run=false", "checkpointing=full")


def test_cells_share_a_group_and_a_half_done_one_goes_on_from_its_state(tmp_path):
    words = (*TINY, "tracker.mode=offline", "state.every=2", "hydra.sweep.dir=my_sweep")
    first = zerokit(*words, cwd=tmp_path, timeout=120)
    assert first.returncode == 0, first.stdout + first.stderr
    runs = [_recorded(file) for file in sorted((tmp_path / "my_sweep").glob("*/wandb/offline-run-*/*.wandb"))]
    assert [(run["run_group"], run["job_type"]) for run in runs] == [("my_sweep", "train")] * 2
    tags = [run["tags"] for run in runs]
    assert tags == [[f"stage{stage}", "fp32", "checkpointing=full", "gpt"] for stage in (1, 2)]

    (cell,) = (tmp_path / "my_sweep").glob("stage2-*")
    summary = json.loads((cell / "summary.json").read_text())
    (cell / "summary.json").write_text(json.dumps(summary | {"status": "running"}))  # as a killed one leaves it
    again = zerokit(*words, cwd=tmp_path, timeout=120)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("finished *") == again.stdout.count("goes on from its saved state") == 1
    resumed = json.loads((cell / "summary.json").read_text())
    assert resumed["resumed_from"] and not (cell / "attempts").exists()
    assert resumed["weights_sha256"] == summary["weights_sha256"]


def _recorded(file):
    """What W&B's own reader finds in an offline run."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    env = os.environ | {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    lines = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    return next(record["run"] for record in map(json.loads, lines) if record["type"] == "run")
