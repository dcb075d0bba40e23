"""A whole run tracked by W&B offline, read back with W&B's own reader: what it holds is what metrics.jsonl holds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.commands import environment, zerokit
from zerokit.record.metrics import read_metrics


def test_an_offline_run_holds_the_metrics_the_config_and_the_summary(tmp_path):
    result = zerokit(
        "tracker=wandb", "tracker.mode=offline", "zero=stage3", "run.name=mine", "run.group=sweep", "run.tags=[own]",
        "train.steps=4", "train.log_every=1", "train.eval_every=2", "train.eval_samples=4", "train.sample_tokens=0",
        "model.dim=32", "model.layers=1", "model.heads=4", "data.seq_len=32", "hydra.run.dir=run",
        cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    env = environment() | {"WANDB_ERROR_REPORTING": "false"}
    lines = subprocess.run(words, env=env, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    logged = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert len(history) == len(logged) == 4
    for shown, row in zip(history, logged, strict=True):
        for name, value in row.items():
            assert shown[name] == pytest.approx(value, nan_ok=True), name
    assert [name for name in logged[1] if name.startswith("eval/")], "evaluations are among them"
    run = next(record["run"] for record in records if record["type"] == "run")
    assert run["config"]["update"]["zero"]["stage"] == 3 and run["config"]["update"]["train"]["steps"] == 4
    assert (run["display_name"], run["run_group"]) == ("mine", "sweep")
    assert {"own", "stage3", "fp32", "gpt"} <= set(run["tags"])
    final = {k: v for r in records if r["type"] == "summary" for k, v in r["summary"]["update"].items()}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert final["final/weights_sha256"] == summary["weights_sha256"]
    assert (final["final/status"], final["final/steps"]) == ("finished", 4)
