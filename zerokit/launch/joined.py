"""Joining processes that torchrun or srun started: rank 0 alone runs Hydra and tells the others each job.

The jobs go through torch's TCPStore, each under a prefix of its own, which also keeps the process groups of
successive jobs apart.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

from zerokit.comm import process
from zerokit.comm.store import connect
from zerokit.config.batch import resolve_batch
from zerokit.config.errors import ConfigError
from zerokit.config.schema import Config
from zerokit.config.terminal import complain
from zerokit.launch.environment import hint
from zerokit.launch.errors import TrainingFailed
from zerokit.launch.relay import pass_on
from zerokit.launch.worker import call

PATIENCE = timedelta(hours=1)
"""How long a rank waits for the next job; rank 0 checks the configuration and starts jobs meanwhile."""
GOODBYE_S = 30.0
TELL_S = 20.0
"""Seconds after which a rank that waits says for whom."""
SHOWN = 8

_store: dist.Store | None = None
_jobs = 0


def folder(run_dir: Path) -> Path:
    """The output folder of the next job: that of its first attempt where torchrun has started the ranks again, though
    the default folder is named by the time."""
    kept = dist.PrefixStore("zerokit/folders", _connect().underlying_store)  # across restarts
    key = f"job/{_jobs}"
    if not kept.check([key]):
        kept.set(key, str(run_dir))
    first = Path(kept.get(key).decode())
    if first != run_dir:
        with suppress(OSError):  # Hydra has just made it
            run_dir.rmdir()
    return first


def lead(config: Config, run_dir: Path, entry: str) -> dict[str, Any]:
    """Tell the other ranks about a job, do the part of rank 0, and return its summary.

    Raises:
        ConfigError: if the batch cannot be divided among the processes, or what a rank found wrong.
        TrainingFailed: after a failure under srun, with the traceback of this rank.
        SystemExit: with 1 after a failure, so that torchrun ends the other ranks; with 128 and the signal's number when
            all ranks have ended for a signal.
    """
    resolve_batch(config.batch, int(os.environ["WORLD_SIZE"]))
    job = {"entry": entry, "config": config.to_dict(), "run_dir": str(run_dir)}
    _connect().set(f"job/{_jobs}", json.dumps(job))
    with _telling(_who_is_missing):
        result = _work(job)
    if result.get("status") == "interrupted":
        pass_on(result["signal"])
        sys.exit(128 + result["signal"])
    return result


def follow() -> int:
    """Do the part of this rank in every job that rank 0 announces; return the exit status that rank 0 ends with."""
    while True:
        with _telling(_why_no_job):
            store = _connect()
            store.wait([f"job/{_jobs}"], PATIENCE)
        job = json.loads(store.get(f"job/{_jobs}"))
        store.set(f"taken/{_jobs}/{os.environ['RANK']}", "")
        if "stop" in job:
            store.add("done", 1)
            return job["stop"]
        _redirect_output(Path(job["run_dir"]))
        try:
            _work(job)
        except ConfigError:  # rank 0 says it, and whether another job follows; so it does after an interruption
            continue
        except SystemExit as ended:
            return ended.code


def stop(status: int) -> None:
    """Tell the other ranks that no job follows, and wait until they know."""
    store = _connect()
    store.set(f"job/{_jobs}", json.dumps({"stop": status}))
    deadline = time.monotonic() + GOODBYE_S
    while store.add("done", 0) < int(os.environ["WORLD_SIZE"]) - 1 and time.monotonic() < deadline:
        time.sleep(0.02)


def _connect() -> dist.Store:
    global _store
    if _store is None:
        _store = connect(PATIENCE)
    return _store


@contextmanager
def _telling(what: Callable[[], str]) -> Iterator[None]:
    """Print `what()`, once, if the block takes longer than a rank should wait without a word."""
    timer = threading.Timer(TELL_S, lambda: (text := what()) and complain(text + hint()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _who_is_missing() -> str:
    """Which ranks have not taken the job that rank 0 works on; empty if all have."""
    store, job, world = _connect().clone(), _jobs - 1, int(os.environ["WORLD_SIZE"])
    missing = [rank for rank in range(1, world) if not store.check([f"taken/{job}/{rank}"])]
    if not missing:
        return ""
    shown = ", ".join(map(str, missing[:SHOWN])) + (f", … ({len(missing)} in all)" if len(missing) > SHOWN else "")
    return f"rank 0 waits for rank{'s' * (len(missing) > 1)} {shown} of {world}, not seen for {TELL_S:.0f} s."


def _why_no_job() -> str:
    """Why this rank has nothing to do yet; empty if another one has said it."""
    rank, where = os.environ["RANK"], f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if _store is None:
        return f"rank {rank} waits for rank 0: nothing answers at {where}."
    if _store.clone().add(f"told/{_jobs}", 1) > 1:
        return ""
    return f"rank {rank} waits for rank 0, which can be reached but has started no job for {TELL_S:.0f} s."


def _work(job: dict[str, Any]) -> dict[str, Any]:
    global _jobs
    process.use_store(dist.PrefixStore(f"group/{_jobs}", _connect()))
    _jobs += 1
    try:
        return call(job["entry"], job["config"], job["run_dir"]) or {}
    except ConfigError:
        process.close_group()  # another job may follow
        raise
    except Exception as error:
        if not os.environ.get("TORCHELASTIC_ERROR_FILE"):
            text = "".join(traceback.format_exception(error))
            raise TrainingFailed(f"rank {process.place()[0]}: {type(error).__name__}: {error}\n{text}") from error
        # torchrun shows the traceback of the first failure from this file; printing it here would repeat it.
        ErrorHandler().record_exception(error)
        sys.exit(1)


def _redirect_output(run_dir: Path) -> None:
    """Send stdout and stderr of this process to `logs/rankN.out` and `.err`; rank 0 alone keeps the terminal."""
    logs = run_dir / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for stream, suffix in ((sys.stdout, "out"), (sys.stderr, "err")):
        stream.flush()
        with open(logs / f"rank{os.environ['RANK']}.{suffix}", "ab") as file:
            os.dup2(file.fileno(), stream.fileno())
