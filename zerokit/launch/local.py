"""Worker processes on this host, by torch elastic."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import re
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig as ElasticConfig
from torch.distributed.launcher.api import elastic_launch

from zerokit.config import schema
from zerokit.config.batch import resolve_batch
from zerokit.config.checks import CPU_PROCESSES
from zerokit.config.errors import ConfigError
from zerokit.config.terminal import complain
from zerokit.fault import Ended
from zerokit.fault.signals import asking, word_left
from zerokit.launch.errors import TrainingFailed
from zerokit.launch.relay import Interrupted, Relay, pass_on
from zerokit.launch.team import Team
from zerokit.launch.worker import work
from zerokit.record.summary import has_ended
from zerokit.report.ended import mark_ended

NOT_INITIALIZED = 3
"""CUDA_ERROR_NOT_INITIALIZED of the driver API."""
ELASTIC_LOGGERS = ("torch.distributed.elastic", "torch.multiprocessing")
LAUNCHER_FRAMES = (os.path.join("elastic", "multiprocessing", "errors"), os.path.join("zerokit", "launch", "worker.py"))


class RunLogs(LogsSpecs):
    """Output of the workers: rank 0 keeps the terminal, the others write to `logs/rankN.out` and `.err`."""

    def __init__(self, folder: Path, errors: Path, attempt: int, environment: dict[str, str]) -> None:
        super().__init__(str(folder))
        self._folder, self._errors, self._environment = folder, errors, environment
        self._restart = str(attempt)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Return the files of each local rank; `envs` are the environments of the workers."""
        stdouts, stderrs, errors = {}, {}, {}
        for local_rank, env in envs.items():
            env |= self._environment | {"TORCHELASTIC_RESTART_COUNT": self._restart}
            rank, restart = int(env["RANK"]), self._restart
            stem = self._folder / (f"rank{rank}" if restart == "0" else f"rank{rank}.restart{restart}")
            stdouts[local_rank] = "" if rank == 0 else f"{stem}.out"
            stderrs[local_rank] = "" if rank == 0 else f"{stem}.err"
            errors[local_rank] = str(self._errors / f"{restart}.{rank}.json")
            env["TORCHELASTIC_ERROR_FILE"] = errors[local_rank]
        return LogsDest(stdouts=stdouts, stderrs=stderrs, error_files=errors)

    @property
    def root_log_dir(self) -> str:
        """The folder of the logs."""
        return str(self._folder)


def run(config: schema.Config, run_dir: Path, entry: str) -> dict[str, Any]:
    """Run `entry` in worker processes on this host, again after a failure, and return what rank 0 returned.

    Raises:
        TrainingFailed: with rank and traceback of the root cause, if a worker failed and no restart is left.
        ConfigError: if the batch cannot be divided among the processes, there are fewer GPUs than processes, or what a
            worker found wrong.
        KeyboardInterrupt, SystemExit: after SIGINT, or after another signal with 128 and the signal's number.
    """
    importlib.import_module(entry.partition(":")[0])  # once here, not in every worker that is forked
    team = Team(config, tuple(range(count_processes(config.launch))))
    resolve_batch(config.batch, len(team.members))
    with _quiet_elastic(), Relay(asking(config.launch.save_signals)) as relay:
        try:
            summary = _attempts(team, run_dir, entry, relay)
        except Interrupted as interrupted:
            number = relay.signal or interrupted.signal
            if not has_ended(run_dir):
                mark_ended(run_dir, "interrupted", f"{signal.Signals(number).name}: ended at once")
        else:
            if summary.get("status") != "interrupted":
                return summary
            number = relay.signal or summary["signal"]
    pass_on(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _attempts(team: Team, run_dir: Path, entry: str, relay: Relay) -> dict[str, Any]:
    for attempt in count():
        try:
            return _attempt(team, run_dir, entry, attempt)
        except ConfigError as error:
            mark_ended(run_dir, "failed", str(error))
            raise
        except TrainingFailed as failure:
            if relay.killed:
                raise Interrupted(relay.signal) from failure
            mark_ended(run_dir, "failed", failure.headline)
            asked = relay.signal or failure.signal
            here = (run_dir / "logs").is_dir()  # else somebody has removed or moved the folder
            if asked is not None or attempt == team.config.launch.max_restarts or not here:
                if asked is not None and attempt < team.config.launch.max_restarts:
                    complain(f"no restart: {signal.Signals(asked).name} asked the run to end.")
                raise
            team = team.after(failure.rank)
            _announce(run_dir, failure, attempt + 1, team)


def _attempt(team: Team, run_dir: Path, entry: str, attempt: int) -> dict[str, Any]:
    """Run the workers once."""
    with tempfile.TemporaryDirectory(prefix="zerokit-") as errors:
        elastic = ElasticConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=len(team.members),
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,  # its restarts cannot leave out a rank, nor say why the last attempt failed
            # A fork shares the modules already imported; CUDA alone does not survive it.
            start_method="spawn" if _cuda_was_asked() else "fork",
            logs_specs=RunLogs(run_dir / "logs", Path(errors), attempt, team.environment()),
            signals_to_handle="SIGQUIT",  # the others are relayed to the workers
        )
        try:
            return elastic_launch(elastic, work)(entry, team.config.to_dict(), str(run_dir), os.getpid())[0] or {}
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            for number in asking(team.config.launch.save_signals):
                if failure.exitcode in (-number, 128 + number):
                    raise Interrupted(number) from None
            _raise_refusal(failure)
            text = _describe(rank, failure, len(team.members), run_dir)
            raise TrainingFailed(text, rank, word_left(Path(errors))) from None
        except SignalException as error:
            raise SystemExit(128 + error.sigval) from None


def _cuda_was_asked() -> bool:
    """Whether this process has initialised CUDA's driver, through torch or anything else."""
    if torch.cuda.is_initialized():
        return True
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return driver.cuCtxGetCurrent(ctypes.byref(ctypes.c_void_p())) != NOT_INITIALIZED


def _announce(run_dir: Path, failure: TrainingFailed, restart: int, team: Team) -> None:
    """Say on the terminal and in `logs/launcher.log` that the workers start again, and why."""
    most = team.config.launch.max_restarts
    text = f"restart {restart} of {most} with {len(team.members)} processes"
    complain(f"{text}: {failure.headline}")
    now = datetime.now().isoformat(timespec="seconds")
    with suppress(OSError), (run_dir / "logs" / "launcher.log").open("a", encoding="utf-8") as file:
        file.write(f"{now} {failure}\n{now} {text}\n")


def count_processes(launch: schema.LaunchConfig) -> int:
    """Return how many workers this host gets: `launch.nproc`, else one per visible GPU, else two on a CPU.

    Raises:
        ConfigError: if GPUs are asked for that are not there.
    """
    # Asked through NVML, so that the answer does not initialise CUDA, which a fork would not survive.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    gpus = torch.cuda.device_count() if launch.device != "cpu" else 0
    if launch.device == "cuda" and gpus < (launch.nproc or 1):
        raise ConfigError(f"launch.device=cuda: {launch.nproc or 1} GPUs are needed, PyTorch sees {gpus}.")
    if launch.device == "auto" and 0 < gpus < (launch.nproc or 1):
        raise ConfigError(
            f"launch.nproc={launch.nproc}: each process needs a GPU of its own, PyTorch sees {gpus}. "
            "Lower launch.nproc or set launch.device=cpu."
        )
    return launch.nproc or gpus or CPU_PROCESSES


def _describe(rank: int, failure: ProcessFailure, processes: int, run_dir: Path) -> str:
    cause = _cause(failure)
    if cause.startswith(f"{Ended.__name__}: "):  # the rank that tells is not the one that failed
        told = cause.removeprefix(f"{Ended.__name__}: ").partition("\n")[0]
    else:
        told = f"rank {rank} of {processes} failed: {cause}"
    return f"{told}\nLogs: {run_dir / 'logs'}"


def _raise_refusal(failure: ProcessFailure) -> None:
    """Raise here the ConfigError with which a worker ended, if that is what it was."""
    if isinstance(failure.message, dict):
        kind, _, text = failure.message["message"].partition(": ")
        if kind == ConfigError.__name__:
            raise ConfigError(text) from None


def _cause(failure: ProcessFailure) -> str:
    if isinstance(failure.message, dict):
        return f"{failure.message['message']}\n\n{_own_frames(failure.message['extraInfo']['py_callstack'])}"
    if failure.exitcode < 0:
        hint = "; out of memory?" if failure.exitcode == -signal.SIGKILL else ""
        return f"killed by signal {-failure.exitcode} ({failure.signal_name()}{hint})."
    return f"it ended with exit status {failure.exitcode} and no traceback."


def _own_frames(traceback: str) -> str:
    """Return a traceback without the frames of the launcher above the entry."""
    head, *frames = re.split(r"(?=^  File )", traceback.rstrip(), flags=re.MULTILINE)
    while len(frames) > 1 and any(path in frames[0] for path in LAUNCHER_FRAMES):
        frames.pop(0)
    return head + "".join(frames)


@contextmanager
def _quiet_elastic() -> Iterator[None]:
    """Silence elastic's own account of a failure, which would repeat the traceback that is shown at the end."""
    # Its modules have loggers with levels of their own.
    names = [name for name in logging.root.manager.loggerDict if name.startswith(ELASTIC_LOGGERS)]
    states = [(logging.getLogger(name), logging.getLogger(name).disabled) for name in names]
    for logger, _ in states:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in states:
            logger.disabled = disabled
