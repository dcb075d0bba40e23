"""Faults of a run (rows 7, 9 and 10 of the fault matrix): everybody is out soon, and the files name rank and cause."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import pytest

from tests.fault.runs import LONG, begin, check_interrupted, children, finish, run, wait_for_step
from zerokit.fault.signals import REPEAT_S
from zerokit.launch import local
from zerokit.report.ended import mark_ended
from zerokit.state.folder import FOLDER, saved_states

OUT_S = 10.0
CAUSES = {
    "raise": "rank {rank}.*: ValueError: the cause",
    "out_of_memory": "rank {rank}.*: OutOfMemoryError: .*held at its peak",
    "kill": "rank {rank} (of 2 failed: killed by signal 9|is gone: its process)",
}


@pytest.mark.parametrize("start", ["local", "torchrun"])
@pytest.mark.parametrize(("fault", "rank"), [("raise", 1), ("kill", 0), ("kill", 1), ("out_of_memory", 1)])
def test_a_failing_rank_ends_all_within_10_seconds_and_is_named(tmp_path, fault, rank, start):
    """Row 9."""
    outcome = run(tmp_path, f"run.tags=[{fault}@{rank}@3]", start=start)
    assert outcome.status == 1, outcome.stderr
    assert outcome.seconds < OUT_S
    summary = outcome.summary
    assert summary["status"] == "failed"
    assert re.search(CAUSES[fault].format(rank=rank), summary["error"]), summary["error"]
    if start == "local":
        assert summary["error"] in outcome.stderr and outcome.stderr.count("Traceback") <= 1


def test_a_rank_that_leaves_early_is_named(tmp_path):
    """Row 10."""
    outcome = run(tmp_path, "run.tags=[leave@1@3]")
    assert outcome.status == 1 and outcome.seconds < OUT_S
    assert "rank 1 is gone" in outcome.summary["error"]


@pytest.mark.parametrize(
    ("fault", "rank", "start", "told"),
    [
        ("stop", 1, "local", r"rank 1 does not answer (its process"),
        ("stop", 0, "torchrun", r"rank 0 does not answer (its process"),
        ("hang", 1, "local", "rank 1 is behind the others (step 3, last collective: "),
        ("hold", 1, "local", "rank 1 does not answer (its process"),
    ],
)
def test_a_standstill_is_noticed_and_every_stack_dumped(tmp_path, fault, rank, start, told):
    """Row 10."""
    outcome = run(tmp_path, f"run.tags=[{fault}@{rank}@3]", "launch.step_timeout_s=2", start=start)
    assert outcome.status == 1
    assert told in outcome.summary["error"], outcome.summary["error"]
    assert outcome.summary["status"] == "failed"
    for each in (0, 1):
        stacks = outcome.log(f"rank{each}.stacks")
        assert "most recent call first" in stacks and "in fit" in stacks, each
    assert "collectives begun, the last: " in outcome.log(f"rank{1 - rank}.stacks")
    if fault != "stop":
        assert f"in _{fault}" in outcome.log("rank1.stacks")


@pytest.mark.parametrize(
    ("place", "words", "told"),
    [
        ("assembly", ("launch.start_timeout_s=1",), "1 s in start-up"),
        ("save", ("launch.save_timeout_s=1", "state.every=2"), "1 s in step 2 (save)"),
        ("measure", ("launch.step_timeout_s=1",), "1 s in step 1 (measure)"),
    ],
)
def test_each_phase_has_its_limit(tmp_path, place, words, told):
    """Row 10."""
    outcome = run(tmp_path, f"run.tags=[hang@1@{place}]", "train.steps=4", *words)
    assert outcome.status == 1
    assert re.search(r"rank \d has waited for " + re.escape(told), outcome.summary["error"]), outcome.summary["error"]
    assert "in _hang" in outcome.log("rank1.stacks")


@pytest.mark.parametrize(
    ("number", "to", "status"),
    [
        (signal.SIGTERM, "launcher", 143),
        (signal.SIGINT, "launcher and its group", 130),
        (signal.SIGHUP, "launcher", 129),
        (signal.SIGTERM, "all", 143),
        (signal.SIGUSR1, "launcher", 138),
        (signal.SIGUSR2, "all", 140),
    ],
    ids=str,
)
def test_a_signal_ends_all_ranks_at_one_step(tmp_path, number, to, status):
    """Row 7. `timeout` signals the launcher and then its group; a scheduler signals all processes of a job."""
    process = begin(tmp_path, *LONG)
    wait_for_step(tmp_path, 3)
    since = time.time()
    for pid in children(process.pid) if to == "all" else ():
        os.kill(pid, number)
    process.send_signal(number)
    if to == "launcher and its group":
        time.sleep(0.05)
        os.killpg(process.pid, number)
    outcome = finish(process, tmp_path, since)
    assert outcome.status == status, outcome.stderr
    ends = [re.findall(r"the last step is (\d+)", outcome.log(f"rank{each}.log")) for each in (0, 1)]
    assert ends == [[str(outcome.summary["steps"])]] * 2
    assert "bits_per_byte" in outcome.summary, "the loss of the end is in the unit of the lines before it"
    assert [(outcome.folder / f"result{each}").read_text() for each in (0, 1)] == ["interrupted"] * 2
    check_interrupted(outcome, number, tmp_path)


@pytest.mark.parametrize(
    ("fault", "number", "rank", "start"),
    [
        ("terminate", signal.SIGTERM, 1, "local"),
        ("interrupt_and_repeat", signal.SIGINT, 0, "local"),
        ("terminate", signal.SIGTERM, 0, "torchrun"),
        ("interrupt_and_repeat", signal.SIGINT, 1, "torchrun"),
    ],
)
def test_a_signal_to_one_rank_ends_all_at_one_step(tmp_path, fault, number, rank, start):
    """Row 7."""
    outcome = run(tmp_path, *LONG, f"run.tags=[{fault}@{rank}@3]", start=start)
    assert outcome.status == (128 + number if start == "local" else 1), outcome.stderr
    assert outcome.summary["steps"] >= 3
    check_interrupted(outcome, number, tmp_path)


@pytest.mark.parametrize("start", ["local", "torchrun"])
def test_a_signal_in_start_up_ends_the_run(tmp_path, start):
    """Row 7."""
    outcome = run(tmp_path, "train.steps=100000", "run.tags=[terminate@1@0]", start=start)
    assert outcome.status == (143 if start == "local" else 1), outcome.stderr


@pytest.mark.parametrize("place", ["results", "leave"])
def test_a_signal_to_a_rank_that_finishes_lets_it_finish(tmp_path, place):
    outcome = run(tmp_path, "train.steps=3", f"run.tags=[terminate@1@{place}]")
    assert outcome.status == 0, outcome.stderr
    assert outcome.summary["status"] == "finished"
    assert "SIGTERM: the run is ending already" in outcome.log("rank1.log")


def test_a_signal_to_the_launcher_of_a_run_that_has_finished(tmp_path, monkeypatch):
    """The launcher ends as it was asked to, and the run stays finished."""
    original = local.elastic_launch

    def late(*arguments):
        def call(*words):
            result = original(*arguments)(*words)
            os.kill(os.getpid(), signal.SIGTERM)
            return result

        return call

    monkeypatch.setattr(local, "elastic_launch", late)
    outcome = run(tmp_path, "train.steps=3")
    assert outcome.status == 143
    assert (outcome.summary["status"], outcome.summary["error"]) == ("finished", None)


def test_a_second_signal_ends_at_once(tmp_path):
    """Row 7: also while a rank hangs, so that the first signal cannot be followed."""
    process = begin(tmp_path, "run.tags=[hang@1@3]")
    wait_for_step(tmp_path, 2)
    workers = children(process.pid)
    process.send_signal(signal.SIGTERM)
    time.sleep(REPEAT_S + 0.1)
    since = time.time()
    process.send_signal(signal.SIGTERM)
    outcome = finish(process, tmp_path, since)
    assert outcome.status == 143 and outcome.seconds < 5
    assert outcome.summary["status"] == "interrupted" and "at once" in outcome.summary["error"]
    assert not any(_runs(pid) for pid in workers)


def test_the_workers_end_with_the_launcher(tmp_path):
    process = begin(tmp_path, "train.steps=100000")
    wait_for_step(tmp_path, 2)
    workers = children(process.pid)
    process.kill()
    process.communicate(timeout=20)
    deadline = time.time() + 10
    while any(_runs(pid) for pid in workers) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in workers)


def _runs(pid: int) -> bool:
    from zerokit.fault.board import process_state

    return process_state(pid) != "gone"


@pytest.mark.parametrize(("on_error", "status"), [("fail", 1), ("continue", 0)])
def test_a_full_disk_ends_the_run_or_does_not_as_asked(tmp_path, on_error, status):
    """Row 4: nothing that a run writes has room, not only its states."""
    words = (
        "train.steps=6",
        "state.every=2",
        "state.asynchronous=false",
        "run.tags=[fill_disk@0@4]",
        f"state.on_error={on_error}",
    )
    process = begin(tmp_path, *words)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == status, stderr
    assert stdout.count("the tracker is told of the end") == 1
    assert [saved.step for saved in saved_states(tmp_path / "run" / FOLDER)] == [2]
    assert not [path for path in (tmp_path / "run").rglob("*tmp*") if not path.name.startswith("step-")]
    if on_error == "continue":
        assert "step 6/6" in stdout and stdout.count("metrics.jsonl'. The training goes on") == 1
        assert (stderr, stdout.count("Traceback")) == ("", 0)
    else:
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert summary["status"] == "failed" and summary["error"].startswith("rank 0"), summary["error"]


def test_a_full_disk_keeps_no_hung_rank_alive(tmp_path):
    process = begin(tmp_path, "run.tags=[fill_disk@0@2,hang@1@2]", "launch.step_timeout_s=1")
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1 and "rank 1 is behind the others" in stderr, stderr


def test_a_record_that_cannot_be_written_hides_no_error(tmp_path, caplog):
    (tmp_path / "summary.json").mkdir()
    mark_ended(tmp_path, "failed", "the cause", {"steps": 2})
    assert "summary.json does not say how the run ended: Is a directory" in caplog.text
    mark_ended(tmp_path / "removed", "failed", "the cause")
    assert not (tmp_path / "removed").exists()


def test_a_flipped_weight_ends_the_run_and_is_named(tmp_path):
    """Row 12."""
    outcome = run(tmp_path, "run.tags=[flip@1@3]", "state.verify_every=2")
    assert outcome.status == 1
    told = outcome.summary["error"]
    assert "after step 4: ranks 0, 1 differ from each other: " in told and told.endswith("bias")


def test_nothing_to_compare_is_said_in_one_line(tmp_path, capfd):
    outcome = run(tmp_path, "zero=stage3", "train.steps=2", "state.verify_every=1")
    assert outcome.status == 0
    assert outcome.log("rank0.log").count("nothing is compared") == 1
