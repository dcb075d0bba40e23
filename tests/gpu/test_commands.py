"""Whole runs on GPUs, as they are typed: options that meet each other, and the end of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import zerokit
from tests.gpu.process import WORLD, needs_gpu

pytestmark = needs_gpu
SMALL = (
    "model.dim=128", "model.layers=3", "zero.min_unit=1", "train.steps=9", "train.eval_every=3", "train.eval_samples=8",
    "train.log_every=2", "tracker=none", "launch.device=cuda", f"launch.nproc={WORLD}", "batch.global=8",
)  # fmt: skip
RECORDED = ("train.cuda_graph=true", "zero=stage3", "precision=bf16")


def run(folder: Path, *words: str) -> dict:
    """The summary of a run, which must end well."""
    result = zerokit(*SMALL, *words, f"hydra.run.dir={folder}", cwd=folder.parent, timeout=200)
    assert result.returncode == 0, result.stderr
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize(
    "words",
    [
        RECORDED,
        (*RECORDED, "state.every=2", "optimizer=schedule_free_adamw", "scheduler=constant"),
        (*RECORDED, "precision=fp16", "optimizer=muon", "batch.accumulation=2"),
        (*RECORDED, "zero=stage1", "checkpointing=every_k", "checkpointing.others=selective"),
        ("zero=stage2", "precision=fp16", "optimizer=adafactor", "checkpointing=selective", "train.compile=false"),
        ("zero=stage1", "checkpointing=cpu", "optimizer=lamb", "train.compile=false"),
        (*RECORDED, "debug=profile", "profile.after=6"),
        ("zero=auto", "precision=bf16"),
    ],
    ids=lambda words: " ".join(word.partition("=")[2] for word in words),
)
def test_a_run_ends_with_a_loss(tmp_path, words):
    summary = run(tmp_path / "run", *words)
    assert summary["status"] == "finished" and summary["steps"] == 9
    assert summary["loss"] < 6 and summary["validation_loss"] < 6


def test_a_recorded_run_that_is_saved_goes_on_bit_for_bit(tmp_path):
    words = (*RECORDED, "scheduler=constant", "train.log_every=100", "train.eval_every=0")  # the host waits for nothing
    straight = run(tmp_path / "straight", *words)
    run(tmp_path / "run", *words, "state.every=2", "train.steps=6")
    resumed = run(tmp_path / "run", *words, "state.every=2")
    assert resumed["resumed_from"]["step"] == 6
    assert resumed["weights_sha256"] == straight["weights_sha256"]


@pytest.mark.skipif(WORLD < 2, reason="two GPUs are needed")
def test_cells_of_a_sweep_take_a_gpu_each(tmp_path):
    words = ("-m", "zero=stage0,stage3", "launch.nproc=1", "sweep.parallel=2", "train.compile=false", "precision=bf16")
    result = zerokit(*SMALL, *words, f"hydra.sweep.dir={tmp_path / 'sweep'}", cwd=tmp_path, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    summaries = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/summary.json")]
    assert len({summary["weights_sha256"] for summary in summaries}) == 1 and len(summaries) == 2
