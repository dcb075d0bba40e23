"""Python, packages, the compiler, W&B and the variables of the environment."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from zerokit.doctor.line import Line, bad, note, ok

EXTRAS = {"tensorboard": "tensorboard", "wandb_workspaces": "dashboard", "submitit": "slurm", "optuna": "optuna"}
FROM_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def software() -> Iterator[Line]:
    """Python, torch, optional packages, a C++ compiler."""
    import torch

    yield ok("Python", platform.python_version())
    built = (
        f"CUDA {torch.version.cuda}"
        if torch.version.cuda
        else f"ROCm {torch.version.hip}"
        if torch.version.hip
        else "CPU"
    )
    yield ok("PyTorch", f"{torch.__version__}, built for {built}")
    missing = sorted(extra for module, extra in EXTRAS.items() if find_spec(module) is None)
    if missing:
        names = " ".join(name for extra in missing for name in packages_of(extra))
        yield note("extras", f"not installed: {', '.join(missing)}", f"pip install {names}, where wanted")
    compiler = next(
        (name for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name and shutil.which(name)), None
    )
    if compiler:
        yield ok("C++ compiler", compiler)
    else:
        yield note(
            "C++ compiler", "none found", "kernels of GPUs need one, and so does train.compile=true: install g++"
        )


def packages_of(extra: str) -> list[str]:
    """What an extra of zerokit installs, by the names of PyPI, on which zerokit itself is not."""
    marked = re.compile(rf"""([\w.-]+)[^;]*;.*extra == ['"]{re.escape(extra)}['"]""")
    return [match[1] for line in requires("zerokit") or () if (match := marked.fullmatch(line))]


def wandb_state() -> Iterator[Line]:
    """Whether runs go to W&B's server or to the disk."""
    try:
        number = version("wandb")
    except PackageNotFoundError:
        yield note("W&B", "not installed", "pip install wandb, or tracker=none")
        return
    try:
        import wandb
    except Exception as error:  # of whatever it needs in turn
        told = f"{number} cannot be imported ({type(error).__name__}: {error}); runs are not recorded there"
        yield bad("W&B", told, "pip install --force-reinstall wandb, or tracker=none")
        return
    from zerokit.tracker._wandb import has_key

    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("offline", "disabled"):
        yield note("W&B", f"{number}, WANDB_MODE={mode}", "unset WANDB_MODE to record online")
    elif has_key(wandb):
        yield ok("W&B", f"{number}, a key is present: runs go online")
    else:
        yield note("W&B", f"{number}, no key: runs are recorded offline", "`wandb login`, or `wandb sync` a run later")


def environment() -> Iterator[Line]:
    """Variables that change what a run does."""
    left = [name for name in FROM_LAUNCHERS if name in os.environ]
    if {"RANK", "WORLD_SIZE"} <= set(left):
        yield bad(
            "environment", f"{', '.join(left)} are set", "a run would wait for torchrun's other ranks: unset them"
        )
    elif left:
        yield note("environment", f"{', '.join(left)} set", "left by a launcher? unset them")
    for name in ("CUDA_LAUNCH_BLOCKING", "NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_IB_DISABLE"):
        if os.environ.get(name, "0") not in ("", "0"):
            yield note("environment", f"{name}={os.environ[name]}", f"it slows training down: unset {name}")
    if os.environ.get("SLURM_JOB_ID") and shutil.which("srun") is None:
        yield note("Slurm", "inside a job, but srun is not on PATH", "load the cluster's module of Slurm")
