"""Worker processes on this host, by torch elastic."""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
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
from zerokit.launch.errors import TrainingFailed
from zerokit.launch.worker import work
from zerokit.train.summary import mark_failed

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
ELASTIC_LOGGERS = ("torch.distributed.elastic", "torch.multiprocessing")
LAUNCHER_FRAMES = (os.path.join("elastic", "multiprocessing", "errors"), os.path.join("zerokit", "launch", "worker.py"))
SHUTDOWN_S = 8
"""Seconds that interrupted workers have to end before they are killed."""


class RunLogs(LogsSpecs):
    """Output of the workers: rank 0 keeps the terminal, the others write to `logs/rankN.out` and `.err`."""

    def __init__(self, folder: Path, errors: Path) -> None:
        super().__init__(str(folder))
        self._folder = folder
        self._errors = errors

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Return the files of each local rank; `envs` are the environments of the workers."""
        stdouts, stderrs, errors = {}, {}, {}
        for local_rank, env in envs.items():
            rank, restart = int(env["RANK"]), env.get("TORCHELASTIC_RESTART_COUNT", "0")
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
    """Run `entry` in worker processes on this host and return what rank 0 returned.

    Raises:
        TrainingFailed: with rank and traceback of the root cause, if a worker failed.
        ConfigError: if the batch cannot be divided among the processes, or there are fewer GPUs than processes.
        KeyboardInterrupt: after Ctrl-C.
    """
    processes = count_processes(config.launch)
    resolve_batch(config.batch, processes)
    with tempfile.TemporaryDirectory(prefix="zerokit-") as errors, _quiet_elastic(), _signals_restored():
        elastic = ElasticConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=config.launch.max_restarts,
            # A fork shares the modules already imported; CUDA alone does not survive it.
            start_method="spawn" if torch.cuda.is_initialized() else "fork",
            logs_specs=RunLogs(run_dir / "logs", Path(errors)),
        )
        try:
            return elastic_launch(elastic, work)(entry, config.to_dict(), str(run_dir))[0] or {}
        except ChildFailedError as error:
            described = _describe(error, processes, run_dir)
            mark_failed(run_dir, described.splitlines()[0])
            raise TrainingFailed(described) from None
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + error.sigval) from None


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


def _describe(error: ChildFailedError, processes: int, run_dir: Path) -> str:
    rank, failure = error.get_first_failure()
    return f"rank {rank} of {processes} failed: {_cause(failure)}\nLogs: {run_dir / 'logs'}"


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
    timeout = os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_S))
    try:
        yield
    finally:
        for logger, disabled in states:
            logger.disabled = disabled
        if timeout == str(SHUTDOWN_S):
            os.environ.pop("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", None)


@contextmanager
def _signals_restored() -> Iterator[None]:
    """Undo the signal handlers that elastic leaves behind, so that Ctrl-C works between the jobs of a sweep."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
