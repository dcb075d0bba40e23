"""The programs of the system that these tests need, and why they cannot run where those are missing."""

from __future__ import annotations

import os
import shutil
import subprocess

PACKAGES = {
    "ip": "iproute2",
    "unshare": "util-linux",
    "munged": "munge",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
}
"""Debian's package of each program."""
NETWORK = ("ip", "unshare", "nsenter")
SLURM = ("munged", "slurmctld", "slurmd", "sbatch")
APT = ("apt-get", "-o", "DPkg::Lock::Timeout=300")


def missing(programs: tuple[str, ...], install: bool) -> str:
    """Why tests that use the programs cannot run here; empty if they can. install: whether to try to install them."""
    if os.geteuid() != 0:
        return "hosts made of network namespaces need root"
    absent = [program for program in programs if shutil.which(program) is None]
    if not absent:
        return ""
    packages = sorted({PACKAGES.get(program, program) for program in absent})
    if not install:
        return f"{', '.join(absent)} not installed: `make test-hosts` tries to ({' '.join(packages)})"
    return _install(packages)


def _install(packages: list[str]) -> str:
    """Install Debian packages; why that failed, or nothing."""
    if shutil.which(APT[0]) is None:
        return f"{' '.join(packages)} cannot be installed: there is no apt-get"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (("update",), ("install", "-y", "--no-install-recommends", *packages)):
        result = subprocess.run([*APT, *words], capture_output=True, text=True, env=environment, timeout=600)
        if result.returncode:
            return f"{' '.join(packages)} cannot be installed: {(result.stderr.splitlines() or ['?'])[-1]}"
    return ""
