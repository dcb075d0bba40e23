from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from omegaconf import OmegaConf

from tests.commands import ROOT, environment, python
from tests.config.arguments import config
from zerokit.config.errors import ConfigError
from zerokit.config.schema import Config, LaunchConfig
from zerokit.launch import launch
from zerokit.launch.errors import TrainingFailed
from zerokit.launch.local import _cuda_was_asked, count_processes

FAKE = "tests.launch.fake_worker:run"


def test_the_summary_of_rank_0_comes_back(tmp_path, capfd):
    cfg = config("zero=stage3", "launch.threads=1")
    summary = launch(cfg, tmp_path, FAKE)
    assert summary == {"loss": 4.0, "rank": 0, "stage": 3, "run_dir": str(tmp_path), "threads": 1}
    assert Config.from_dict(OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml"))) == cfg
    assert capfd.readouterr().out == "output of rank 0 at stage 3\n", "only rank 0 has the terminal"
    assert (tmp_path / "logs" / "rank1.out").read_text() == "output of rank 1 at stage 3\n"


@pytest.mark.parametrize(
    ("tag", "cause"),
    [("raise", "ValueError: the cause"), ("kill", "killed by signal 9 (SIGKILL"), ("exit", "exit status 3")],
)
def test_a_failing_rank_ends_all_and_is_named(tmp_path, capfd, tag, cause):
    start = time.monotonic()
    with pytest.raises(TrainingFailed) as error:
        launch(config(f"run.tags=[{tag}]"), tmp_path, FAKE)
    assert time.monotonic() - start < 10
    message = str(error.value)
    assert message.startswith(f"rank 1 of 2 failed: {cause}") or cause in message.splitlines()[0]
    assert message.count("Traceback") == (1 if tag == "raise" else 0)
    assert "launch/worker.py" not in message, "frames of the launcher are left out"
    assert capfd.readouterr().err == "", "elastic does not tell it a second time"


def test_workers_are_spawned_where_cuda_was_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("zerokit.launch.local._cuda_was_asked", lambda: True)
    assert launch(config("zero=stage1", "launch.threads=1"), tmp_path, FAKE)["stage"] == 1


class FakeDriver:
    """libcuda's answer to a process that has not initialised it (3), or has (0)."""

    def __init__(self, answer: int):
        self.cuCtxGetCurrent = lambda context: answer


@pytest.mark.parametrize(("answer", "asked"), [(3, False), (0, True), (100, True)])
def test_the_driver_knows_whether_it_was_asked(monkeypatch, answer, asked):
    monkeypatch.setattr("zerokit.launch.local.ctypes.CDLL", lambda name: FakeDriver(answer))
    assert _cuda_was_asked() is asked


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    launch(config(), tmp_path, FAKE)
    assert signal.getsignal(signal.SIGINT) is before


def test_workers_are_started_again(tmp_path):
    summary = launch(config("run.tags=[restart]", "launch.max_restarts=1"), tmp_path, FAKE)
    assert summary["loss"] == 4.0
    assert (tmp_path / "logs" / "rank1.restart1.out").exists()


def test_gpus_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert count_processes(LaunchConfig()) == 2
    assert count_processes(LaunchConfig(nproc=1)) == 1
    assert count_processes(LaunchConfig(nproc=4, device="cpu")) == 4
    with pytest.raises(ConfigError, match="each process needs a GPU of its own, PyTorch sees 2"):
        count_processes(LaunchConfig(nproc=4))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert count_processes(LaunchConfig()) == 2
    with pytest.raises(ConfigError, match="launch.device=cuda: 1 GPUs are needed, PyTorch sees 0"):
        count_processes(LaunchConfig(device="cuda"))


def test_the_command_shows_the_cause_once_and_ends_with_status_1(tmp_path):
    result = python("-m", "tests.launch.fake_worker", "launch=cpu", "run.tags=[raise]", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("ValueError: the cause") == 2, "in the headline and at the end of the traceback"
    assert result.stderr.count("Traceback") == 1
    assert "Error executing job" not in result.stderr


def test_a_run_can_be_repeated_from_its_folder(tmp_path):
    first = python("-m", "tests.launch.fake_worker", "launch=cpu", "train.steps=7", "hydra.run.dir=first", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    again = python("-m", "tests.launch.fake_worker", "--config-path=first", "--config-name=config", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    (second,) = tmp_path.glob("outputs/*/*")
    assert (second / "config.yaml").read_text() == (tmp_path / "first" / "config.yaml").read_text()
    assert sorted(file.name for file in second.iterdir()) == ["config.yaml", "logs", "prediction.json"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_workers(tmp_path, number, status):
    command = [sys.executable, "-m", "tests.launch.fake_worker", "launch=cpu", "run.tags=[sleep]"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline() == b"output of rank 0 at stage 2\n"
    time.sleep(0.5)
    os.kill(process.pid, number)
    assert process.wait(20) == status
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    process.stdout.close()
    process.stderr.close()


def test_the_checkout_is_found_from_elsewhere(tmp_path):
    assert python("-c", "import zerokit; print(zerokit.__file__)", cwd=tmp_path).stdout.startswith(str(ROOT))
