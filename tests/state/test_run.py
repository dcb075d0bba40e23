"""Whole runs from the command line: killed and started again, started twice, started with other options."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import environment, zerokit
from tests.state.trained import SMALL
from zerokit.config.errors import ConfigError
from zerokit.record.metrics import read_metrics
from zerokit.state.lock import locked
from zerokit.state.resume import refusal

WORDS = (*SMALL, "train.steps=12", "state.every=2", "train.log_every=1", "zero=stage3")


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_row_1_a_job_that_is_killed_goes_on_when_started_again(tmp_path):
    straight = zerokit(*WORDS, "state.every=0", "hydra.run.dir=straight", cwd=tmp_path)
    assert straight.returncode == 0, straight.stderr
    command = [sys.executable, "-m", "zerokit", *WORDS, "hydra.run.dir=run"]
    job = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, start_new_session=True)
    root, deadline = tmp_path / "run" / "state", time.monotonic() + 60
    while not (root / "step-00000004").exists() and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.002)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    again = zerokit(*WORDS, "hydra.run.dir=run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    first, second = summary(tmp_path / "straight"), summary(tmp_path / "run")
    assert second["weights_sha256"] == first["weights_sha256"] and second["loss"] == first["loss"]
    assert second["resumed_from"]["step"] >= 4 and "going on after step" in again.stdout
    rows = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("straight", "run")]
    assert [row["trainer/step"] for row in rows[1]] == list(range(1, 13)), "every step once"
    assert [row["train/loss"] for row in rows[1]] == [row["train/loss"] for row in rows[0]]


def test_row_17_a_second_job_in_a_folder_is_refused(tmp_path):
    with locked(tmp_path / "run"):
        result = zerokit(*WORDS, "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 2
    assert f"in use by another job (process {os.getpid()} on " in result.stderr
    assert not (tmp_path / "run" / "config.yaml").exists(), "the first job's files are not touched"


def test_row_17_the_lock_ends_with_the_process(tmp_path):
    code = f"import os, pathlib, zerokit.state.lock as l\nwith l.locked(pathlib.Path({str(tmp_path)!r})): os._exit(0)"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)
    with locked(tmp_path), pytest.raises(ConfigError, match="in use"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_row_17_workers_that_outlive_their_launcher_for_a_moment_are_waited_for(tmp_path, capsys):
    code = (
        f"import os, pathlib, time, zerokit.state.lock as l\nwith l.locked(pathlib.Path({str(tmp_path)!r})):\n"
        "    if os.fork() == 0: time.sleep(1)\n    os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)
    with locked(tmp_path):
        assert re.fullmatch(
            r"waiting for the workers of process \d+, which has ended, in .*\n", capsys.readouterr().out
        )


def test_row_17_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, capsys):
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        assert "has no locks (Function not implemented): a second job" in capsys.readouterr().err


def test_a_finished_run_is_left_as_it_is(tmp_path):
    words = (*WORDS, "train.steps=2", "state.every=1", "launch.nproc=1", "estimate.run=false", "hydra.run.dir=run")
    run = tmp_path / "run"
    assert zerokit(*words, cwd=tmp_path).returncode == 0
    files = {path: path.read_bytes() for name in ("*.*", "state/*/*") for path in run.glob(name)}
    again = zerokit(*words, cwd=tmp_path)
    assert (again.returncode, again.stdout, again.stderr) == (0, f"nothing left to do: step 2 of 2, in {run}\n", "")
    assert run / "summary.json" in files and {path: path.read_bytes() for path in files} == files
    less = zerokit(*words, "train.steps=1", cwd=tmp_path)
    told = f"zerokit: train.steps=1: {run}/state/step-00000002 is a state after step 2, "
    assert less.returncode == 2 and less.stderr.startswith(told), less
    assert {path: path.read_bytes() for path in files} == files
    (run / "state" / "step-00000002" / "manifest.json").write_text("damaged")
    told = zerokit(*words, cwd=tmp_path).stdout
    name = re.search(r"It is renamed to (step-00000002.damaged-\w+)", told)
    assert name and (run / "state" / name[1]).is_dir() and "going on after step 1" in told, told


@pytest.mark.parametrize(
    ("keys", "suggested"),
    [
        (("optimizer.lr", "model.dropout"), "optimizer.lr,model.dropout"),
        (("optimizer.name", "data.seed"), "optimizer,data.seed"),
        (("optimizer.lr", "model.dim"), None),  # weights of other shapes are refused all the same
        (("model.name",), None),
    ],
)
def test_row_18_allowing_changes_is_suggested_where_it_helps(keys, suggested):
    *_, what_to_do = refusal(Path("state"), [f"{key}: 1 in the state, 2 here" for key in keys]).splitlines()
    assert len(what_to_do) <= 80
    if suggested is None:
        assert what_to_do == "Put these back, or start in another folder (hydra.run.dir=DIR)."
    else:
        assert what_to_do == f"'state.allow_changed=[{suggested}]'."


def test_row_18_another_training_is_refused_before_a_worker_starts(tmp_path):
    first = zerokit(*WORDS, "scheduler=constant", "train.steps=2", "hydra.run.dir=run", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    config = (tmp_path / "run" / "config.yaml").read_text()
    other = ("optimizer.lr=0.5", "model.layers=1", "train.loss_mean=samples")
    result = zerokit(*WORDS, "scheduler=constant", "train.steps=4", *other, "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 2
    _, *fields, what_to_do = result.stderr.splitlines()
    assert sorted(fields) == [
        "  model.layers: 2 in the state, 1 here",
        "  optimizer.lr: 0.01 in the state, 0.5 here",
        "  train.loss_mean: tokens in the state, samples here",
    ]
    assert what_to_do == "Put these back, or start in another folder (hydra.run.dir=DIR)."
    assert (tmp_path / "run" / "config.yaml").read_text() == config
    allowed = zerokit(
        *WORDS, "scheduler=constant", "train.steps=4", "optimizer.lr=0.5", "state.allow_changed=[optimizer.lr]",
        "train.loss_mean=tokens", "hydra.run.dir=run", cwd=tmp_path,
    )  # fmt: skip
    assert allowed.returncode == 0, allowed.stderr
    last = summary(tmp_path / "run")
    assert last["resumed_from"]["step"] == 2
    (earlier,) = last["attempts"]
    assert (earlier["status"], earlier["steps"]) == ("finished", 2)
    nowhere = zerokit(*WORDS, "scheduler=constant", "state.resume=nowhere", "hydra.run.dir=other", cwd=tmp_path)
    assert nowhere.returncode == 2 and "state.resume=nowhere: expected a state" in nowhere.stderr
