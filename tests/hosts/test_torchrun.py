"""torchrun over two hosts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fault.runs import LONG, SMALL, children, wait_for_step
from tests.hosts.network import ALIAS, Network
from zerokit.state.folder import FOLDER, saved_states

WORDS = (*SMALL, "estimate.run=false", "hydra.run.dir=run")


def start(network: Network, folder: Path, *words: str, name: str | None = None) -> list[subprocess.Popen]:
    """torchrun on both nodes, which have process ids of their own, with one worker each. name: host name of both. What
    they print is in `node1.log` and `node2.log`."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--rdzv_id=tests",
                "--rdzv_backend=c10d", f"--rdzv_endpoint={network.node1.address}:29411", "-m", "zerokit")  # fmt: skip
    return [
        node.start(
            *torchrun, *WORDS, *words, cwd=folder, log=folder / f"{node.name}.log", name=name, own_processes=True
        )
        for node in (network.node1, network.node2)
    ]


def summary(folder: Path) -> dict:
    return json.loads((folder / "run" / "summary.json").read_text())


def test_two_hosts_train_together_though_they_have_one_name(network, tmp_path):
    """As containers often do: a rank must not be looked for among the processes of the other host."""
    launchers = start(network, tmp_path, "train.steps=3", name=ALIAS)
    assert [launcher.wait(240) for launcher in launchers] == [0, 0], (tmp_path / "node1.log").read_text()
    assert (summary(tmp_path)["status"], summary(tmp_path)["world_size"]) == ("finished", 2)


@pytest.mark.hosts
def test_a_cut_cable_ends_the_launchers_of_both_hosts_within_the_limits(network, tmp_path):
    """The second host cannot reach the store any more, nor can torchrun's agent on it."""
    launchers = start(network, tmp_path, *LONG, "launch.step_timeout_s=10")
    wait_for_step(tmp_path, 3, timeout=90)
    network.cut(network.node2)
    since = time.monotonic()
    try:
        statuses = [launcher.wait(60) for launcher in launchers]
    finally:
        network.cut(network.node2, whole=True)
        for launcher in launchers:
            launcher.kill()
    assert 0 not in statuses and time.monotonic() - since < 45
    assert "rank 1 does not answer (it runs on node2)" in summary(tmp_path)["error"]
    assert "has not answered for 10 s" in (tmp_path / "run" / "logs" / "rank1.log").read_text()


@pytest.mark.hosts
def test_a_signal_to_the_agent_of_one_host_saves_the_state_of_both(network, tmp_path):
    launchers = start(network, tmp_path, *LONG)
    wait_for_step(tmp_path, 3, timeout=90)
    (shell,) = children(launchers[1].pid)
    (agent,) = children(shell)
    os.kill(agent, signal.SIGTERM)
    for launcher in launchers:
        launcher.wait(60)
    told = summary(tmp_path)
    assert (told["status"], told["error"]) == ("interrupted", f"SIGTERM after step {told['steps']}")
    assert [saved.step for saved in saved_states(tmp_path / "run" / FOLDER)] == [told["steps"]]
