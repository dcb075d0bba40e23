"""A real Slurm over the hosts of `network`: its daemons, below one folder and as children of this process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.commands import environment
from tests.hosts.network import Host, Network

CONF = """\
ClusterName=zerokit
SlurmctldHost=login(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
KillWait=20
JobRequeue=1
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeAddr=10.77.0.2 CPUs=4
NodeName=node2 NodeAddr=10.77.0.3 CPUs=4
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""
READY_S = 30.0


class Slurm:
    """The cluster. cwd: where its commands run."""

    def __init__(self, network: Network, folder: Path):
        self.network, self._folder, self.cwd = network, folder, folder
        self._daemons: list[subprocess.Popen] = []
        self.variables = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def up(self) -> None:
        """Start the daemons and wait until the nodes can take jobs.

        Raises:
            AssertionError: they are not ready in time, with their words.
        """
        folder, login = self._folder, self.network.login
        folder.chmod(0o755)  # munge's own rule
        (folder / "state").mkdir()
        (folder / "slurm.conf").write_text(CONF.format(folder=folder))
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid",
                 "log-file": folder / "munged.log", "seed-file": folder / "munge.seed"}  # fmt: skip
        self._start(login, "munged", "--foreground", "--force", *(f"--{key}={value}" for key, value in files.items()))
        self._start(login, "slurmctld", "-D")
        for node in (self.network.node1, self.network.node2):
            self._start(node, "slurmd", "-D", "-N", node.name)
        deadline = time.monotonic() + READY_S
        while self.command("sinfo", "-h", "-p", "main", "-o", "%D %T").stdout.strip() != "2 idle":
            assert time.monotonic() < deadline, self._said()
            time.sleep(0.3)

    def down(self) -> None:
        """End all jobs and the daemons."""
        self.cancel_all()
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _start(self, host: Host, *words: str) -> None:
        log = self._folder / f"{words[0]}.{host.name}.log"
        self._daemons.append(host.start(*words, cwd=self._folder, log=log, **self.variables))

    def _said(self) -> str:
        return "\n".join(f"{file.name}: {file.read_text()[-2000:]}" for file in self._folder.glob("*.log"))

    # -- what a user does --------------------------------------------------------------------------------------------

    def environment(self, **variables: str) -> dict[str, str]:
        """The environment of a command of Slurm."""
        return environment() | {"OMP_NUM_THREADS": "1"} | self.variables | variables

    def command(self, *words: str, timeout: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the login host."""
        env = self.environment(**variables)
        return self.network.login.run(*words, timeout=timeout, cwd=self.cwd, env=env)

    def submit(self, *words: str, **variables: str) -> str:
        """`sbatch` with the words; the id of the job."""
        result = self.command("sbatch", "--parsable", *words, **variables)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says of a job."""
        return dict(re.findall(r"(\w+)=(\S+)", self.command("scontrol", "-o", "show", "job", job).stdout))

    def wait_for(self, job: str, *states: str, timeout: float = 90) -> dict[str, str]:
        """Wait until a job is in one of the states; a job that was put back into the queue need not wait for its time.

        Raises:
            AssertionError: it is not in time.
        """
        deadline = time.monotonic() + timeout
        while (facts := self.facts(job)).get("JobState") not in states:
            assert time.monotonic() < deadline, f"{facts}\n{self.output()}"
            if facts.get("JobState") == "PENDING" and int(facts.get("Restarts", "0")):
                self.command("scontrol", "update", f"jobid={job}", "StartTime=now")
            time.sleep(0.5)
        return facts

    def output(self) -> str:
        """What the jobs of this test have printed."""
        return "\n".join(file.read_text(errors="replace") for file in sorted(self.cwd.glob("slurm-*.out")))

    def cancel_all(self) -> None:
        """Cancel all jobs and wait until they are gone."""
        self.command("scancel", "--user=root")
        deadline = time.monotonic() + READY_S
        while self.command("squeue", "-h").stdout.strip() and time.monotonic() < deadline:
            time.sleep(0.3)
