"""Faults on GPUs (rows 8 to 10): ranks that wait in NCCL end too, and a run goes on from its newest state."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from tests.fault.runs import Outcome, begin, finish, wait_for_step
from tests.gpu.process import WORLD, needs_gpu

pytestmark = [*needs_gpu, pytest.mark.skipif(WORLD < 2, reason="two GPUs are needed")]
ON_GPUS = ("launch.device=cuda", "train.compile=false", "zero=stage3", "zero.min_unit=1", "precision=bf16")
STATES = ("train.steps=8", "state.every=2", "batch.global=4", "scheduler=constant")
OUT_S = 10.0


def run(folder: Path, *words: str, start: str = "local") -> Outcome:
    process = begin(folder, *ON_GPUS, *words, start=start)
    outcome = finish(process, folder, time.time(), timeout=150)
    metrics = folder / "run" / "metrics.jsonl"
    outcome.seconds = time.time() - metrics.stat().st_mtime if metrics.exists() else 0.0
    return outcome


@pytest.mark.parametrize("transport", ["collective", "peer"])
@pytest.mark.parametrize(("fault", "rank"), [("raise", 1), ("kill", 0), ("kill", 1)])
def test_a_failing_rank_ends_all_within_10_seconds_and_is_named(tmp_path, fault, rank, transport):
    outcome = run(tmp_path, f"run.tags=[{fault}@{rank}@3]", f"zero.transport={transport}")
    assert outcome.status == 1, outcome.stderr
    assert outcome.seconds < OUT_S
    told = {"raise": f"rank {rank}.*: ValueError: the cause", "kill": f"rank {rank} (of 2 failed|is gone)"}[fault]
    assert re.search(told, outcome.summary["error"]), outcome.summary["error"]


@pytest.mark.parametrize("start", ["local", "torchrun"])
def test_a_run_with_a_recorded_step_ends(tmp_path, start):
    outcome = run(tmp_path, *STATES, "train.cuda_graph=true", start=start)
    assert outcome.status == 0, outcome.stderr
    assert outcome.summary["status"] == "finished" and outcome.seconds < 60


@pytest.mark.parametrize("start", ["local", "torchrun"])
def test_a_failure_after_a_step_was_recorded_ends_all(tmp_path, start):
    outcome = run(tmp_path, *STATES, "train.cuda_graph=true", "run.tags=[raise@1@7]", start=start)
    assert outcome.status == 1 and outcome.seconds < OUT_S
    assert "ValueError: the cause" in outcome.summary["error"]


def test_torchrun_names_the_rank_that_failed(tmp_path):
    outcome = run(tmp_path, "run.tags=[raise@1@3]", start="torchrun")
    assert outcome.status == 1 and outcome.seconds < OUT_S
    assert "ValueError: the cause" in outcome.summary["error"]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("stop", r"rank 1 does not answer (its process"),
        ("hang", "rank 1 is behind the others (step 3, last collective: "),
    ],
)
def test_a_standstill_is_noticed_and_every_stack_dumped(tmp_path, fault, told):
    outcome = run(tmp_path, f"run.tags=[{fault}@1@3]", "launch.step_timeout_s=4")
    assert outcome.status == 1
    assert told in outcome.summary["error"], outcome.summary["error"]
    for each in (0, 1):
        assert "most recent call first" in outcome.log(f"rank{each}.stacks"), each


@pytest.mark.parametrize("fault", ["kill", "raise"])
def test_a_restart_goes_on_from_the_newest_state(tmp_path, fault):
    (tmp_path / "straight").mkdir()
    undisturbed = run(tmp_path / "straight", *STATES)
    outcome = run(tmp_path, *STATES, f"run.tags=[{fault}@1@6]", "launch.max_restarts=1")
    assert outcome.status == 0, outcome.stderr
    assert outcome.summary["status"] == "finished" and outcome.summary["resumed_from"]["step"] in (2, 4)
    assert outcome.summary["weights_sha256"] == undisturbed.summary["weights_sha256"]


def test_an_interrupted_run_goes_on_at_another_stage(tmp_path):
    words = ("train.steps=400", "batch.global=4", "scheduler=constant", "precision=fp32")
    process = begin(tmp_path, *ON_GPUS, *words)
    wait_for_step(tmp_path, 3, timeout=100)
    process.send_signal(signal.SIGTERM)
    stopped = finish(process, tmp_path, time.time(), timeout=60)
    assert stopped.status == 143 and stopped.summary["status"] == "interrupted"
    reached = stopped.summary["steps"]
    resumed = run(tmp_path, *words, "zero=stage1")
    assert resumed.status == 0 and resumed.summary["resumed_from"]["step"] == reached
    (tmp_path / "straight").mkdir()
    straight = run(tmp_path / "straight", *words)
    assert resumed.summary["weights_sha256"] == straight.summary["weights_sha256"]
