"""Workers that start again after a failure (row 8): from the newest state, with all ranks or fewer, not for ever."""

from __future__ import annotations

import os

import pytest

from tests.config.arguments import config
from tests.fault.runs import run
from zerokit.launch.team import Team

STATES = ("train.steps=8", "state.every=2", "batch.global=4", "scheduler=constant")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> str:
    """Digest of the weights without a fault."""
    return run(tmp_path_factory.mktemp("undisturbed"), *STATES).summary["weights_sha256"]


@pytest.mark.parametrize(("fault", "rank"), [("kill", 0), ("raise", 1)])
def test_a_restart_goes_on_from_the_newest_state(tmp_path, capfd, undisturbed, fault, rank):
    outcome = run(tmp_path, *STATES, f"run.tags=[{fault}@{rank}@6]", "launch.max_restarts=1")
    assert outcome.status == 0, outcome.stderr
    summary = outcome.summary
    assert (summary["status"], summary["weights_sha256"]) == ("finished", undisturbed)
    assert summary["resumed_from"]["step"] in (2, 4)  # the save of step 4 may have been under way
    (failed,) = summary["attempts"]
    assert failed["status"] == "failed" and failed["error"].startswith(f"rank {rank} of 2 failed: ")
    told = capfd.readouterr()
    assert f"zerokit: restart 1 of 1 with 2 processes: {failed['error']}\n" == told.err
    assert "failed" not in told.out, "an error that is not the end is none to people"
    assert "restart 1 of 1 with 2 processes" in outcome.log("launcher.log")
    assert failed["error"] in outcome.log("launcher.log")


def test_a_rank_that_is_gone_before_it_has_said_where_it_runs_is_started_again(tmp_path):
    """Elastic's signal to the others is nobody's wish to end."""
    outcome = run(tmp_path, *STATES, "run.tags=[kill_late@1@0]", "launch.max_restarts=1")
    assert outcome.status == 0, outcome.stderr
    assert len(outcome.summary["attempts"]) == 1


def test_restarts_are_bounded(tmp_path):
    outcome = run(tmp_path, *STATES, "run.tags=[kill@1@2@9]", "launch.max_restarts=2")
    assert outcome.status == 1
    assert outcome.summary["status"] == "failed" and len(outcome.summary["attempts"]) == 2


@pytest.mark.parametrize(
    "tags", ["terminate_and_raise@1@3", "raise@1@3,terminate_late@0@3", "terminate@1@3,raise@1@save"]
)
def test_a_run_that_was_asked_to_end_is_not_started_again(tmp_path, capfd, tags):
    """Row 7: the signal went to one rank, before or after a failure."""
    outcome = run(tmp_path, "train.steps=300", f"run.tags=[{tags}]", "launch.max_restarts=1")
    assert outcome.status == 1
    summary, told = outcome.summary, capfd.readouterr().err
    assert (summary["status"], summary["attempts"]) == ("failed", []) and "ValueError: the cause" in summary["error"]
    assert "no restart: SIGTERM asked the run to end." in told and "restart 1" not in told


def test_a_rank_that_keeps_failing_is_left_out(tmp_path):
    """The batch stays: as many samples per step and per forward pass."""
    outcome = run(tmp_path, *STATES, "run.tags=[kill@1@6@2]", "launch.max_restarts=2", "launch.min_ranks=1")
    assert outcome.status == 0, outcome.stderr
    summary = outcome.summary
    assert (summary["status"], summary["world_size"], summary["steps"]) == ("finished", 1, 8)
    assert [attempt["world_size"] for attempt in summary["attempts"]] == [2, 2]
    assert summary["resumed_from"]["step"] in (2, 4)


def test_torchrun_starts_again_in_the_folder_of_the_first_attempt(tmp_path):
    """The default folder is named by the time, so that it would be another one."""
    words = (*STATES, "run.tags=[kill@1@6]", "hydra.run.dir=run/${now:%H-%M-%S-%f}")
    outcome = run(tmp_path, *words, start="torchrun with a restart")
    assert outcome.status == 0, outcome.stderr
    (outcome.folder,) = outcome.folder.iterdir()
    assert outcome.summary["status"] == "finished" and len(outcome.summary["attempts"]) == 1
    assert outcome.summary["resumed_from"]["step"] in (2, 4)


def test_gpus_of_the_others_are_kept():
    team = Team(config("launch.nproc=4", "launch.min_ranks=2", "batch.global=12", "batch.micro=1"), (0, 1, 2, 3))
    once = team.after(1)
    assert once.members == (0, 1, 2, 3) and once.environment() == {}
    assert once.after(2).members == (0, 1, 2, 3), "another rank failed this time"
    twice = once.after(1)
    assert twice.members == (0, 2, 3) and twice.environment() == {"CUDA_VISIBLE_DEVICES": "0,2,3"}
    assert (twice.config.batch.global_, twice.config.batch.micro, twice.config.batch.accumulation) == (12, 1, None)
    again = twice.after(1).after(1)  # rank 1 is GPU 2 now
    assert again.members == (0, 3)
    assert again.after(0).after(0).members == (0, 3), "no fewer than min_ranks"


def test_a_batch_that_does_not_divide_takes_fewer_ranks_yet():
    team = Team(config("launch.nproc=4", "launch.min_ranks=1", "batch.global=4", "batch.micro=1"), (0, 1, 2, 3))
    assert team.after(3).after(3).members == (0, 1)
    assert "TORCHELASTIC_RESTART_COUNT" not in os.environ
