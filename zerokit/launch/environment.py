"""Which launcher started this process, read from the environment. Imports no torch."""

from __future__ import annotations

import os
import re


def joined_rank() -> int | None:
    """Return this process's rank if torchrun, srun or submitit started it together with others, else None.

    Under srun and submitit, the variables that torchrun sets are added to the environment.
    """
    if "RANK" not in os.environ and int(os.environ.get("SUBMITIT_LOCAL_NTASKS", "1")) > 1:
        os.environ.update(submitit_variables(os.environ))
    if "RANK" not in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        os.environ.update(slurm_variables(os.environ))
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"])
    return None


def slurm_variables(slurm) -> dict[str, str]:
    """Return torchrun's variables for a task of a Slurm job step.

    The port follows from the job and step, so that all tasks agree and two steps on one host do not collide.
    """
    port = 20000 + (int(slurm["SLURM_JOB_ID"]) * 7 + int(slurm["SLURM_STEP_ID"])) % 20000
    per_host = re.match(r"\d+", slurm.get("SLURM_STEP_TASKS_PER_NODE", slurm["SLURM_STEP_NUM_TASKS"]))
    return {
        "RANK": slurm["SLURM_PROCID"],
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "WORLD_SIZE": slurm["SLURM_STEP_NUM_TASKS"],
        "LOCAL_WORLD_SIZE": per_host[0],
        "MASTER_ADDR": slurm.get("SLURM_LAUNCH_NODE_IPADDR") or first_host(slurm["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(port),
    }


def submitit_variables(local) -> dict[str, str]:
    """Return torchrun's variables for a task of submitit's local executor, whose job is named by a process id."""
    return {
        "RANK": local["SUBMITIT_LOCAL_GLOBALID"],
        "LOCAL_RANK": local["SUBMITIT_LOCAL_LOCALID"],
        "WORLD_SIZE": local["SUBMITIT_LOCAL_NTASKS"],
        "LOCAL_WORLD_SIZE": local["SUBMITIT_LOCAL_NTASKS"],
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(20000 + int(local["SUBMITIT_LOCAL_JOB_ID"]) * 7 % 20000),
    }


def first_host(nodelist: str) -> str:
    """Return the first host of a Slurm node list such as `gpu[03-07,12],login1`: `gpu03`."""
    name, bracket, rest = nodelist.partition("[")
    if not bracket or "," in name:
        return name.partition(",")[0]
    return name + re.match(r"\w+", rest)[0]
