"""What would stop a run before its first step, asked while that costs nothing. Imports no torch."""

from __future__ import annotations

import resource
from pathlib import Path

from zerokit.config.checks import CPU_PROCESSES, known_world, may_have_gpu
from zerokit.config.environment import shown
from zerokit.config.errors import ConfigError
from zerokit.config.host import visible_gpus
from zerokit.config.schedule import fixed_length
from zerokit.config.schema import Config, LaunchConfig
from zerokit.launch.environment import joined_rank
from zerokit.state.lock import check_free
from zerokit.state.resume import SCHEDULE, check_config

FILES, FILES_PER_RANK = 48, 8
"""Files that the launcher and a worker have open at most, on a CPU: so many, and for each rank of the host so many."""


def check_before(config: Config, run_dir: Path) -> None:
    """Refuse what the launcher would refuse, before anything is imported or predicted for it.

    Raises:
        ConfigError: there is no GPU that was asked for; too few files may be open; the folder is in use, or holds
            states of another training.
    """
    _check_gpus(config.launch)
    allow_open_files(known_world(config.launch) or visible_gpus() or CPU_PROCESSES)
    if joined_rank() is not None:  # the ranks agree on a folder only later
        return
    check_free(run_dir)
    if not config.zero.auto:  # which may choose other options than those here
        check_config(shown(config.to_dict()), run_dir, **{SCHEDULE: fixed_length(config)})


def _check_gpus(launch: LaunchConfig) -> None:
    if launch.device == "cuda" and not may_have_gpu():
        raise ConfigError(f"launch.device=cuda: {launch.nproc or 1} GPUs are needed, and this host has none.")


def allow_open_files(ranks: int) -> None:
    """Let this process and those that it starts open as many files as a run of `ranks` on this host needs.

    Raises:
        ConfigError: they may not.
    """
    needed = FILES + FILES_PER_RANK * ranks
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"A process may open {hard} files, and {ranks} ranks need {needed}: raise the limit (ulimit -n), or lower "
            "launch.nproc."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
