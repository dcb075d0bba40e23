from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import environment, python

TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "-m", "tests.launch.fake_worker")


def torchrun(*words: str, cwd: Path):
    return python(*TORCHRUN[:3], "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", *TORCHRUN[4:], *words, cwd=cwd)


def test_hydra_runs_once_for_all_ranks(tmp_path):
    result = torchrun("zero=stage1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (run_dir,) = tmp_path.glob("outputs/*/*")
    assert [(run_dir / "logs" / f"result{rank}").read_text() for rank in (0, 1)] == ["1 4.0\n", "1 4.0\n"]
    assert result.stdout == "output of rank 0 at stage 1\n"
    assert (run_dir / "logs" / "rank1.out").read_text() == "output of rank 1 at stage 1\n"


def test_all_ranks_follow_a_sweep(tmp_path):
    result = torchrun("-m", "zero=stage0,stage3", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for stage in (0, 3):
        (cell,) = (tmp_path / "sweep").glob(f"stage{stage}-*")
        for rank in (0, 1):
            assert (cell / "logs" / f"result{rank}").read_text() == f"{stage} 4.0\n"


@pytest.mark.parametrize(
    ("words", "message", "times"),
    [(["run.tags=[raise]"], "  ValueError: the cause", 1), (["zero.stage=7"], "zero.stage: expected one of", 1)],
)
def test_a_failure_ends_all_ranks(tmp_path, words, message, times):
    result = torchrun(*words, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.count(message) == times, result.stderr


def srun(*words: str, cwd: Path) -> list[subprocess.CompletedProcess]:
    """Two tasks with Slurm's variables, and no agent that holds the store."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        job_id = (probe.getsockname()[1] - 20000) % 20000
    slurm = {
        "SLURM_JOB_ID": str(job_id),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.launch.fake_worker", "launch.device=cpu", "hydra.run.dir=run", *words],
            cwd=cwd,
            env=environment() | slurm | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    ended = [(task, *task.communicate(timeout=60)) for task in tasks]
    return [subprocess.CompletedProcess(task.args, task.returncode, *streams) for task, *streams in ended]


def test_srun_is_joined_like_torchrun(tmp_path):
    assert [task.returncode for task in srun(cwd=tmp_path)] == [0, 0]
    assert [(tmp_path / "run" / "logs" / f"result{rank}").read_text() for rank in (0, 1)] == ["2 4.0\n", "2 4.0\n"]


def test_under_srun_an_error_of_the_disk_in_training_is_none_of_the_output_folder(tmp_path):
    first, _ = srun("run.tags=[disk]", cwd=tmp_path)
    assert first.returncode == 1
    assert "zerokit: rank 0: FileNotFoundError: [Errno 2] No such file or directory: 'data'" in first.stderr
    assert "in _open" in first.stderr and "Choose another output folder" not in first.stderr
