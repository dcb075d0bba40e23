"""Which launcher started this process, read from the environment. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping


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


def slurm_variables(slurm: Mapping[str, str]) -> dict[str, str]:
    """Return torchrun's variables for a task of a Slurm job step.

    Tasks meet on the first host of the step, which has task 0; the host that submitted need not take part. The port
    follows from the job and step, so that all tasks agree and two steps on one host do not collide. MASTER_ADDR and
    MASTER_PORT that are set already stay.
    """
    port = 20000 + (int(slurm["SLURM_JOB_ID"]) * 7 + int(slurm["SLURM_STEP_ID"])) % 20000
    counts = tasks_per_host(slurm.get("SLURM_STEP_TASKS_PER_NODE", slurm["SLURM_STEP_NUM_TASKS"]))
    return {
        "RANK": slurm["SLURM_PROCID"],
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "WORLD_SIZE": slurm["SLURM_STEP_NUM_TASKS"],
        "LOCAL_WORLD_SIZE": str(counts[int(slurm.get("SLURM_NODEID", "0"))]),
        "MASTER_ADDR": slurm.get("MASTER_ADDR") or first_host(slurm["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": slurm.get("MASTER_PORT") or str(port),
    }


def hint() -> str:
    """What may be wrong where a process waits in vain for the others, and the remedy; empty if nothing is known."""
    if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_STEP_ID" not in os.environ:
        return ""
    step = f"{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    return (
        f" All {os.environ['WORLD_SIZE']} tasks of Slurm's step {step} must start zerokit; SLURM_STEP_NUM_TASKS=1 lets "
        "one train alone, such as a shell under srun."
    )


def tasks_per_host(text: str) -> list[int]:
    """Return the tasks of each host from Slurm's short form, such as `8(x2),4`: 8, 8, 4."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, hosts in found for _ in range(int(hosts or 1))]


def submitit_variables(local: Mapping[str, str]) -> dict[str, str]:
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
