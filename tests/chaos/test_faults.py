"""A thousand random faults in one run, whose final weights are those of a run without any, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.commands import environment
from tests.fault.runs import children
from zerokit.fault.signals import REPEAT_S
from zerokit.state.folder import FOLDER, saved_states

pytestmark = pytest.mark.chaos

FAULTS = 1000
RESTARTS = 1_000_000
GONE_S = 20.0
"""Seconds within which all processes of a command that has ended are gone."""
PAUSE_S = 1.2
"""Longest time between two faults."""
WORDS = (
    "model=mlp", "data=synthetic", "data.task=regression", "tracker=none", "launch.nproc=2", "launch.device=cpu",
    "launch.threads=1", "launch.step_timeout_s=3", f"launch.max_restarts={RESTARTS}", "train.log_every=20",
    "train.eval_samples=0", "train.clip_norm=1.0", "zero=stage2", "scheduler=constant", "batch.global=4",
    "state.every=10", "state.keep=5",
)  # fmt: skip


class Run:
    """One run in one folder: started again by its launcher, and by hand when the launcher has ended."""

    def __init__(self, folder: Path, output: Path):
        self.folder, self.output = folder, output
        self.commands = 0
        self.process: subprocess.Popen | None = None

    def start(self, steps: int) -> None:
        self.commands += 1
        words = [sys.executable, "-m", "tests.chaos.victim", *WORDS, f"train.steps={steps}"]
        with self.output.open("ab") as file:
            self.process = subprocess.Popen(
                [*words, f"hydra.run.dir={self.folder}"], env=environment(), cwd=self.folder.parent, stdout=file,
                stderr=file, start_new_session=True,
            )  # fmt: skip

    def workers(self, timeout: float = 60.0) -> list[int]:
        """The ranks' processes, once there are two; fewer when the launcher has ended."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(FileNotFoundError):
                found = children(self.process.pid)
                if len(found) >= 2:
                    return found[-2:]
            time.sleep(0.01)
        return []

    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text())


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _kill_one(run: Run, ranks: list[int], dice: random.Random) -> None:
    _send(dice.choice(ranks), signal.SIGKILL)


def _kill_all(run: Run, ranks: list[int], dice: random.Random) -> None:
    for pid in ranks:
        _send(pid, signal.SIGKILL)


def _kill_in_a_save(run: Run, ranks: list[int], dice: random.Random) -> None:
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        if any(".tmp" in path.name for path in (run.folder / FOLDER).glob("*")):
            break
    _send(dice.choice(ranks), signal.SIGKILL)


def _raise(run: Run, ranks: list[int], dice: random.Random) -> None:
    _send(dice.choice(ranks), signal.SIGUSR1)


def _terminate_one(run: Run, ranks: list[int], dice: random.Random) -> None:
    _send(dice.choice(ranks), signal.SIGTERM)
    deadline = time.monotonic() + 60  # a rank that is ending for another reason does not listen, and is started again
    while run.process.poll() is None and set(run.workers()) == set(ranks) and time.monotonic() < deadline:
        time.sleep(0.05)


def _interrupt_launcher(run: Run, ranks: list[int], dice: random.Random) -> None:
    _send(run.process.pid, dice.choice((signal.SIGTERM, signal.SIGINT)))
    _wait(run)


def _interrupt_twice(run: Run, ranks: list[int], dice: random.Random) -> None:
    _send(run.process.pid, signal.SIGTERM)
    time.sleep(dice.random() * 2 * REPEAT_S)  # every other time it is a repeat
    _send(run.process.pid, signal.SIGTERM)
    _wait(run)


def _kill_launcher(run: Run, ranks: list[int], dice: random.Random) -> None:
    _send(run.process.pid, signal.SIGKILL)
    _wait(run)


def _stop(run: Run, ranks: list[int], dice: random.Random) -> None:
    _send(dice.choice(ranks), signal.SIGSTOP)
    deadline = time.monotonic() + 60
    while set(run.workers()) == set(ranks) and time.monotonic() < deadline:
        time.sleep(0.1)


def _damage_and_kill(run: Run, ranks: list[int], dice: random.Random) -> None:
    """One bit of the newest state is another, and the run has to go on from the one before."""
    states = saved_states(run.folder / FOLDER)
    _kill_all(run, ranks, dice)
    if len(states) < 3:
        return
    with suppress(FileNotFoundError):  # older states go away meanwhile
        file = dice.choice(sorted(states[0].path.iterdir()))
        content = bytearray(file.read_bytes())
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        file.write_bytes(content)


def _wait(run: Run) -> None:
    run.process.wait(60)


def _broken_invariants(run: Run, ranks: list[int]) -> list[str]:
    """What does not hold after a command has ended: its ranks are gone within GONE_S, and summary.json says what
    happened, unless the launcher was killed and nobody was left to."""
    deadline = time.monotonic() + GONE_S
    while (left := [pid for pid in ranks if _is_worker(pid, run)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    found = [f"process {pid} is left" for pid in left]
    if not (run.folder / "summary.json").exists():  # ended before its workers wrote one
        return found
    status, code = run.summary()["status"], run.process.returncode
    if code != -signal.SIGKILL and status not in ("failed", "interrupted"):
        found.append(f"exit status {code}, summary.json: {status}")
    return found


def _is_worker(pid: int, run: Run) -> bool:
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
        return state != "Z" and str(run.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _leftovers(folder: Path) -> list[str]:
    """Temporary files and folders of a run."""
    return [str(path) for path in folder.rglob("*") if ".tmp" in path.name or path.name.startswith(".report")]


KINDS = {
    _kill_one: 26, _kill_all: 10, _kill_in_a_save: 16, _raise: 20, _terminate_one: 6, _interrupt_launcher: 8,
    _interrupt_twice: 4, _kill_launcher: 4, _stop: 1, _damage_and_kill: 5,
}  # fmt: skip


def test_rows_7_to_10_random_faults_in_one_run(budget, tmp_path):
    """Signals, kills, errors, stopped ranks and damaged states at random times, also in start-up and in saves."""
    dice, kinds, run = random.Random(0), Counter(), Run(tmp_path / "run", tmp_path / "output")
    run.start(steps=10**9)
    for _ in budget.cases(range(2 * FAULTS)):
        if kinds.total() == FAULTS:
            break
        time.sleep(dice.random() * PAUSE_S)
        ranks = run.workers()
        if ranks:  # else the launcher has just ended
            (kind,) = dice.choices(list(KINDS), list(KINDS.values()))
            kind(run, ranks, dice)
            kinds[kind.__name__.strip("_").replace("_", " ")] += 1
        if run.process.poll() is not None:
            assert _broken_invariants(run, ranks) == [], run.output.read_text()[-2000:]
            run.start(steps=10**9)
    run.workers()
    time.sleep(20)
    run.process.terminate()
    assert run.process.wait(120) == 143, run.output.read_text()[-2000:]
    reached = run.summary()["steps"]
    steps = reached + 5
    run.start(steps)
    assert run.process.wait(300) == 0, run.output.read_text()[-2000:]
    assert _leftovers(run.folder) == []
    straight = Run(tmp_path / "straight", tmp_path / "straight.out")
    straight.start(steps)
    assert straight.process.wait(3600) == 0
    digests = [each.summary()["weights_sha256"] for each in (run, straight)]
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    same = "the same weights, bit for bit" if digests[0] == digests[1] else "OTHER WEIGHTS"
    budget.note(f"{kinds.total()} faults of {FAULTS} ({told}) in {steps} steps, {run.commands} commands: {same}")
    assert digests[0] == digests[1]
