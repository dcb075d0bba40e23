"""Hosts on one machine: network namespaces that a bridge joins, each with a host name and /etc/hosts of its own.

Nothing outside of them is touched: the bridge lies in the first one, so that their addresses are nobody else's.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.commands import environment

NAMES = ("login", "node1", "node2")
ALIAS = "worker"
"""By this name each host knows itself."""
ENTER = """
hostname "$0"
mount --bind "$1" /etc/hosts
space="$2"
shift 2
"""
HERE = 'exec nsenter --net="$space" "$@"'
CHILD = 'nsenter --net="$space" "$@"; exit $?'
"""The shell stays, since nobody in a container can kill its first process."""


@dataclass(frozen=True)
class Host:
    """One host. name: its host name. address: in the network of these hosts. space: its namespace. hosts: its
    /etc/hosts."""

    name: str
    address: str
    space: str
    hosts: Path

    def command(self, *words: str, name: str | None = None, own_processes: bool = False) -> list[str]:
        """The words that run a command on this host. name: another host name. own_processes: as in a container, with
        process ids of its own."""
        apart = ["--pid", "--fork", "--kill-child", "--mount-proc"] if own_processes else []
        enter = [
            "sh",
            "-c",
            ENTER + (CHILD if own_processes else HERE),
            name or self.name,
            str(self.hosts),
            f"/run/netns/{self.space}",
            *words,
        ]
        return ["unshare", "--uts", "--mount", "--propagation", "private", *apart, *enter]

    def start(self, *words: str, cwd: Path, log: Path, name: str | None = None, own_processes: bool = False,
              **variables: str) -> subprocess.Popen:  # fmt: skip
        """Start a command on this host; what it prints goes to `log`."""
        with log.open("wb") as file:
            return subprocess.Popen(
                self.command(*words, name=name, own_processes=own_processes), cwd=cwd, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, start_new_session=True, env=environment() | variables,
            )  # fmt: skip

    def run(self, *words: str, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on this host to its end."""
        options.setdefault("env", environment())
        return subprocess.run(self.command(*words), capture_output=True, text=True, timeout=timeout, **options)


class Network:
    """Three hosts: `login`, `node1` and `node2`. folder: for their files."""

    def __init__(self, folder: Path):
        self._prefix = f"zk{os.getpid()}-"
        self.login, self.node1, self.node2 = (
            Host(name, f"10.77.0.{number}", f"{self._prefix}{name}", folder / f"hosts.{name}")
            for number, name in enumerate(NAMES, 1)
        )
        self.hosts = (self.login, self.node1, self.node2)

    def up(self) -> None:
        """Make the hosts."""
        table = "".join(f"{host.address} {host.name}\n" for host in self.hosts)
        for host in self.hosts:
            host.hosts.write_text(f"127.0.0.1 localhost\n{table}{host.address} {ALIAS}\n")
            ip(f"netns add {host.space}")
            ip(f"-n {host.space} link set lo up")
        hub = f"-n {self.login.space}"
        ip(f"{hub} link add hub type bridge")
        ip(f"{hub} addr add {self.login.address}/24 dev hub")
        ip(f"{hub} link set hub up")
        for host in self.hosts[1:]:
            ip(f"{hub} link add {host.name} type veth peer name eth0 netns {host.space}")
            ip(f"{hub} link set {host.name} master hub up")
            ip(f"-n {host.space} addr add {host.address}/24 dev eth0")
            ip(f"-n {host.space} link set eth0 up")

    def cut(self, host: Host, whole: bool = False) -> None:
        """Cut the cable of a host, or make it whole again."""
        ip(f"-n {self.login.space} link set {host.name} {'up' if whole else 'down'}")

    def down(self) -> None:
        """Remove the hosts. What still runs on one keeps its namespace alive, without a cable."""
        for host in self.hosts:
            subprocess.run(["ip", "netns", "del", host.space], check=False)


def ip(words: str) -> None:
    """Run `ip`.

    Raises:
        RuntimeError: it refused, and why; as where the kernel or a sandbox has no network namespaces.
    """
    result = subprocess.run(["ip", *shlex.split(words)], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"ip {words}: {result.stderr.strip()}")
