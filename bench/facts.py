"""Where and with what a figure was taken."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("triton", "deepspeed", "megatron-fsdp")
PREFIXES = ("NCCL_", "PYTORCH_", "TORCH_SYMM_MEM_", "CUDA_DEVICE_MAX_CONNECTIONS", "TORCH_NCCL_")


def gpus() -> list[tuple[str, str]]:
    """Name and driver of every GPU, asked without taking memory on one."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    if answer.returncode:
        return []
    return [tuple(part.strip() for part in line.rsplit(",", 1)) for line in answer.stdout.strip().splitlines()]


ROOT = Path(__file__).resolve().parent.parent


def commit(root: Path = ROOT) -> str:
    """BENCH_COMMIT, else the commit of this checkout, `-dirty` if tracked files differ; `unknown` without git.

    A copied tree may come with the git folder of another state. root: of another checkout, which BENCH_COMMIT does not
    speak of.
    """
    if root == ROOT and "BENCH_COMMIT" in os.environ:
        return os.environ["BENCH_COMMIT"]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():
            return "unknown"  # a copy inside of a checkout, which git takes for a part of it
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def collect(device: str, given_commit: str | None, command: list[str]) -> dict[str, Any]:
    """Hardware, versions, commit, date and command of a comparison."""
    found = gpus() if device == "cuda" else []
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": given_commit or commit(),
        "command": "python -m bench.compare " + " ".join(command),
        "gpu": found[0][0] if found else device,
        "driver": found[0][1] if found else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def settings() -> dict[str, Any]:
    """What a run's process knows: variables that change speed (no paths), and NCCL's version."""
    env = {k: v for k, v in sorted(os.environ.items()) if k.startswith(PREFIXES) and os.sep not in v}
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.cuda.is_available() else None
    return {"env": env, "nccl": nccl}
