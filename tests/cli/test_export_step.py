"""`zerokit export` says which step its weights are of, and warns if the run went on without saving."""

from __future__ import annotations

import json

import pytest

from tests.train.test_export import LLAMA, saved
from zerokit.cli import run
from zerokit.record.metrics import MetricsFile

HERE = "these are the weights after step 2"


@pytest.mark.parametrize(
    ("summary", "logged", "told"),
    [
        ({"status": "finished", "steps": 2}, 2, f"zerokit: {HERE}"),
        ({"status": "finished", "steps": 7}, 7, f"zerokit: warning: {HERE}"),
        ({"status": "running"}, 5, f"zerokit: warning: {HERE}"),
        ({"status": "failed", "steps": 4}, None, f"zerokit: warning: {HERE}"),
        ({}, None, f"zerokit: {HERE}"),
    ],
)
def test_export_names_the_step(tmp_path, capfd, summary, logged, told):
    saved(tmp_path, *LLAMA)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    if logged is not None:
        with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
            metrics.log({"train/loss": 1.0}, logged)
    left = tmp_path / "model.tmp-12345678"
    left.mkdir()
    assert run(["export", str(tmp_path)]) == 0
    error = capfd.readouterr().err
    assert error.startswith(told) and error.count("\n") == 1, error
    assert ("in no saved state" in error) == ("warning" in told)
    assert not left.exists(), "what an export that was killed has left goes with the next"
