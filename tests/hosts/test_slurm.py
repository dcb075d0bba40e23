"""Slurm for real: steps, signals, pre-emption and requeueing, as users meet them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.fault.runs import LONG, SMALL, wait_for_step
from tests.hosts.slurm import Slurm
from zerokit.state.folder import FOLDER, saved_states
from zerokit.state.manifest import read_manifest

pytestmark = pytest.mark.hosts
EXAMPLES = ROOT / "examples" / "slurm"
WORDS = (*SMALL, "estimate.run=false")
ZEROKIT = ("python", "-m", "zerokit")
START_S = 240
"""Seconds for two interpreters to import torch and begin, on a busy machine."""


def summary(slurm: Slurm, folder: str = "run") -> dict:
    return json.loads((slurm.cwd / folder / "summary.json").read_text())


def the_folder(slurm: Slurm) -> Path:
    """The only output folder that was made without being named."""
    (folder,) = [path.parent for path in (slurm.cwd / "outputs").glob("*/*/summary.json")]
    return folder


def submit(slurm: Slurm, script: str, *words: str, sbatch: tuple[str, ...] = ()) -> str:
    """Submit one of the examples; two processes in all."""
    return slurm.submit("--overcommit", *sbatch, str(EXAMPLES / script), *WORDS, *words)


def test_srun_typed_on_a_login_host_trains_on_two_others(slurm):
    """The login host, from which the step is launched, takes no part."""
    words = ("srun", "-N2", "-n2", *ZEROKIT, *WORDS, "train.steps=4", "hydra.run.dir=run")
    result = slurm.command(*words, timeout=START_S)
    assert result.returncode == 0, result.stderr
    told = summary(slurm)
    assert (told["status"], told["world_size"], told["threads"]) == ("finished", 2, [1, 1])


def test_ranks_meet_where_the_user_says(slurm):
    own = {"MASTER_ADDR": slurm.network.node1.address, "MASTER_PORT": "29871"}
    words = ("srun", "-N2", "-n2", *ZEROKIT, *WORDS, "train.steps=1", "hydra.run.dir=run", "launch.start_timeout_s=200")
    result = slurm.command(*words, timeout=START_S, **own)
    assert result.returncode == 0, result.stderr
    assert summary(slurm)["status"] == "finished"


def test_a_shell_under_srun_is_told_whom_it_waits_for(slurm):
    """Only one of two tasks starts zerokit, as under `srun -n 2 --pty bash`; alone it trains as the hint says."""
    words = " ".join((*ZEROKIT, *SMALL, "estimate.run=false", "train.steps=1", "hydra.run.dir=run"))
    script = f'[ "$SLURM_PROCID" = 0 ] || exec sleep 600; timeout 60 {words}; SLURM_STEP_NUM_TASKS=1 {words}'
    result = slurm.command("srun", "-N1", "-n2", "--wait=1", "bash", "-c", script, timeout=2 * START_S)
    assert "zerokit: rank 0 waits for rank 1 of 2, not seen for 20 s. All 2 tasks of Slurm's step" in result.stderr
    assert summary(slurm)["status"] == "finished", result.stderr


@pytest.mark.parametrize("script", ["one_node.sh", "several_nodes.sh"])
def test_a_pre_empted_job_goes_on_in_its_folder_and_its_wandb_run(slurm, script):
    """By itself: the script puts the job back into the queue, and no folder is named."""
    tasks = ("--ntasks-per-node=1",)
    job = submit(slurm, script, *LONG, "tracker=wandb", "tracker.mode=offline", "state.every=100000", sbatch=tasks)
    wait_for_any_step(slurm, job)
    folder = the_folder(slurm)
    urgent = slurm.submit("-p", "urgent", "--nodes=2", "--exclusive", "--wrap", "sleep 5")
    slurm.wait_for(urgent, "COMPLETED", timeout=START_S)
    (saved,) = saved_states(folder / FOLDER)
    metrics = folder / "metrics.jsonl"
    slurm.wait_for(job, "RUNNING", timeout=START_S)
    deadline = time.monotonic() + START_S
    while not (summary_of(folder).get("resumed_from") and metrics.read_text().count("\n") > saved.step + 2):
        assert time.monotonic() < deadline, slurm.output()
        time.sleep(0.5)
    slurm.command("scancel", "--signal=TERM", job)  # to its step: once more it is saved and put back
    slurm.wait_for(job, "PENDING", "COMPLETING", timeout=START_S)
    assert the_folder(slurm) == folder
    told = summary_of(folder)
    assert told["resumed_from"]["step"] == saved.step
    assert [attempt["error"] for attempt in told["attempts"]] == [f"SIGTERM after step {saved.step}"]
    tracked = {read_manifest(state.path).facts["tracker"]["id"] for state in saved_states(folder / FOLDER)}
    names = {path.name.rpartition("-")[2] for path in (folder / "wandb").glob("offline-run-*")}
    assert tracked == names and len(names) == 1


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def wait_for_any_step(slurm: Slurm, job: str) -> None:
    """Wait until the run of a job, in whatever folder, has done some steps."""
    slurm.wait_for(job, "RUNNING", timeout=START_S)
    deadline = time.monotonic() + START_S
    while not any(file.read_text().count("\n") > 2 for file in slurm.cwd.glob("outputs/*/*/metrics.jsonl")):
        assert time.monotonic() < deadline and slurm.facts(job)["JobState"] == "RUNNING", slurm.output()
        time.sleep(0.5)


def test_usr1_before_the_time_limit_saves_and_requeues(slurm):
    """The limit is a minute; Slurm signals up to a minute earlier than asked."""
    job = submit(slurm, "several_nodes.sh", *LONG, "hydra.run.dir=run", sbatch=("--ntasks-per-node=1", "--time=30"))
    wait_for_step(slurm.cwd, 3, timeout=START_S)
    slurm.command("scancel", "--signal=USR1", job)
    slurm.wait_for(job, "PENDING", timeout=START_S)
    told = summary(slurm)
    assert (told["status"], told["error"]) == ("interrupted", f"SIGUSR1 after step {told['steps']}")
    assert [state.step for state in saved_states(slurm.cwd / "run" / FOLDER)] == [told["steps"]]


def test_a_job_that_is_cancelled_stays_so(slurm):
    """Its SIGTERM saves the state, but nothing puts it back into the queue."""
    job = submit(slurm, "one_node.sh", *LONG, "hydra.run.dir=run", sbatch=("--ntasks-per-node=1",))
    wait_for_step(slurm.cwd, 3, timeout=START_S)
    slurm.command("scancel", job)
    facts = slurm.wait_for(job, "CANCELLED", timeout=START_S)
    assert facts["Restarts"] == "0"
    while slurm.command("squeue", "-h").stdout.strip():
        time.sleep(0.5)
    assert slurm.facts(job)["JobState"] == "CANCELLED"
    assert summary(slurm)["status"] == "interrupted"


def test_submitit_saves_at_its_signal_and_puts_the_job_back(slurm):
    """USR2 comes to both tasks; submitit's own handler has it once the state is saved."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    launcher = (
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.tasks_per_node=2",
        "hydra.launcher.cpus_per_task=1",
        "hydra.launcher.timeout_min=30",
        "hydra.launcher.max_num_timeout=3",
        "hydra.sweep.dir=sweep",
    )
    words = (*ZEROKIT, "-m", *WORDS, *LONG, *launcher)
    log = slurm.cwd / "submit.log"
    sweep = slurm.network.login.start(*words, cwd=slurm.cwd, log=log, **slurm.variables)
    try:
        deadline = time.monotonic() + START_S
        while not any(file.read_text().count("\n") > 2 for file in slurm.cwd.glob("sweep/*/metrics.jsonl")):
            assert time.monotonic() < deadline and sweep.poll() is None, log.read_text() + slurm.output()
            time.sleep(0.5)
        (folder,) = [file.parent for file in slurm.cwd.glob("sweep/*/metrics.jsonl")]
        (job,) = slurm.command("squeue", "-h", "-o", "%A").stdout.split()
        slurm.command("scancel", "--signal=USR2", job)
        while not (restarted := summary_of(folder)).get("resumed_from"):
            slurm.wait_for(job, "PENDING", "RUNNING", "COMPLETING", timeout=START_S)
            slurm.command("scontrol", "update", f"jobid={job}", "StartTime=now")
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(1)
    finally:
        sweep.kill()
    (attempt,) = restarted["attempts"]
    assert attempt["error"] == f"SIGUSR2 after step {restarted['resumed_from']['step']}"
