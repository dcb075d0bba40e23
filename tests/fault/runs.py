"""Short trainings in which something goes wrong, on this host or under torchrun."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.commands import environment
from tests.config.arguments import config
from zerokit.launch import launch
from zerokit.launch.errors import TrainingFailed
from zerokit.state.folder import FOLDER, saved_states

SMALL = (
    "model=mlp", "data=synthetic", "data.task=regression", "tracker=none", "launch.nproc=2", "launch.device=cpu",
    "train.log_every=1", "train.eval_samples=0", "launch.threads=1",
)  # fmt: skip
LONG = ("train.steps=100000", "scheduler=constant")
RESTARTS = "--max_restarts=1"
ELASTIC = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0")
STARTS = {
    "local": ("-m", "tests.fault.faulty"),
    "torchrun": (*ELASTIC, "-m", "tests.fault.faulty"),
    "torchrun with a restart": (*ELASTIC, RESTARTS, "-m", "tests.fault.faulty"),
}
ENTRY = "tests.fault.faulty:run"


@dataclass
class Outcome:
    """What a run left: exit status, seconds from the last step to the end, what was said of a failure, its folder."""

    status: int
    seconds: float
    stderr: str
    folder: Path

    @property
    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def states(self) -> list[int]:
        """Steps of the states in the folder, newest first."""
        return [saved.step for saved in saved_states(self.folder / FOLDER)]

    def log(self, name: str) -> str:
        return (self.folder / "logs" / name).read_text(errors="replace")


def run(folder: Path, *words: str, start: str = "local", timeout: float = 120) -> Outcome:
    """A whole run: in this process if it starts locally (the workers are forked), else under torchrun."""
    if start != "local":
        process = begin(folder, *words, start=start)
        outcome = finish(process, folder, time.time(), timeout)
    else:
        outcome = _launch(folder / "run", *words)
    metrics = outcome.folder / "metrics.jsonl"
    if metrics.exists():
        outcome.seconds = time.time() - metrics.stat().st_mtime
    return outcome


def check_interrupted(outcome: Outcome, number: int, tmp_path: Path) -> None:
    """A run by the words `LONG` ended for a signal with one new state, from which it goes on as if nothing had been."""
    summary = outcome.summary
    assert (summary["status"], summary["signal"]) == ("interrupted", number), summary["error"]
    step = summary["steps"]
    assert summary["error"] == f"{signal.Signals(number).name} after step {step}"
    assert outcome.states == [step] and summary["state"] == f"step-{step:08d}"
    words = ("scheduler=constant", f"train.steps={step + 2}")
    again = _launch(outcome.folder, *words).summary
    assert (again["status"], again["resumed_from"]["step"]) == ("finished", step)
    (attempt,) = again["attempts"]
    assert all(attempt[key] == summary[key] for key in ("status", "error", "steps"))
    assert again["weights_sha256"] == _launch(tmp_path / "straight", *words).summary["weights_sha256"]


def _launch(run_dir: Path, *words: str) -> Outcome:
    status, told = 0, ""
    try:
        launch(config(*SMALL, *words), run_dir, ENTRY)
    except TrainingFailed as error:
        status, told = 1, str(error)
    except SystemExit as error:
        status = error.code
    except KeyboardInterrupt:
        status = 130
    return Outcome(status, 0.0, told, run_dir)


def begin(folder: Path, *words: str, start: str = "local") -> subprocess.Popen:
    """Start a command whose run is in `folder`/run."""
    words = (*SMALL, "hydra.run.dir=run", *words)
    return subprocess.Popen(
        [sys.executable, *STARTS[start], *words], cwd=folder, env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen, folder: Path, since: float, timeout: float = 120) -> Outcome:
    """Wait for the end of a command; `seconds` count from `since`."""
    _, stderr = process.communicate(timeout=timeout)
    return Outcome(process.returncode, time.time() - since, stderr, folder / "run")


def wait_for_step(folder: Path, step: int, timeout: float = 90) -> None:
    """Return when a run in `folder`/run has done a step."""
    metrics, deadline = folder / "run" / "metrics.jsonl", time.time() + timeout
    while time.time() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} within {timeout} s")


def children(pid: int) -> list[int]:
    """Processes that a process has started, by age."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
