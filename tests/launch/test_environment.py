from __future__ import annotations

import pytest

from zerokit.launch.environment import first_host, joined_rank, slurm_variables

STEP = {
    "SLURM_JOB_ID": "123",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-07,12],login1", "gpu03"), ("gpu[5,9]", "gpu5"), ("a,b[1-2]", "a"), ("node-1", "node-1")],
)
def test_the_first_host_leads(nodes, first):
    assert first_host(nodes) == first


def test_slurm_variables_become_those_of_torchrun():
    variables = slurm_variables(STEP)
    assert variables.pop("MASTER_PORT") == slurm_variables(STEP | {"SLURM_PROCID": "0"})["MASTER_PORT"]
    assert variables == {
        "RANK": "9",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "16",
        "LOCAL_WORLD_SIZE": "8",
        "MASTER_ADDR": "gpu03",
    }


def test_ranks_meet_on_a_host_of_the_step_or_where_the_user_says():
    """The host on which one types srun may be a login host, which runs no task."""
    typed = STEP | {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}
    assert slurm_variables(typed)["MASTER_ADDR"] == "gpu03"
    own = slurm_variables(typed | {"MASTER_ADDR": "gpu04", "MASTER_PORT": "29500"})
    assert (own["MASTER_ADDR"], own["MASTER_PORT"]) == ("gpu04", "29500")


@pytest.mark.parametrize(("text", "node", "tasks"), [("2,1", 1, "1"), ("8(x2),4", 1, "8"), ("8(x2),4", 2, "4")])
def test_each_host_shares_its_cores_among_its_own_tasks(text, node, tasks):
    step = STEP | {"SLURM_STEP_TASKS_PER_NODE": text, "SLURM_NODEID": str(node)}
    assert slurm_variables(step)["LOCAL_WORLD_SIZE"] == tasks


def test_a_rank_is_joined_only_beside_others(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", *STEP):
        monkeypatch.delenv(name, raising=False)
    assert joined_rank() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert joined_rank() is None, "an interactive shell under srun"
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert joined_rank() == 3
