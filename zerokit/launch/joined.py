"""Joining processes that torchrun or srun started: rank 0 alone runs Hydra and tells the others each job.

The jobs go through torch's TCPStore, each under a prefix of its own, which also keeps the process groups of
successive jobs apart.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from contextlib import suppress
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
from zerokit.launch.errors import TrainingFailed
from zerokit.launch.worker import call

PATIENCE = timedelta(hours=1)
"""How long a rank waits for the next job; rank 0 checks the configuration and starts jobs meanwhile."""
GOODBYE_S = 30.0

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
    result = _work(job)
    if result.get("status") == "interrupted":
        sys.exit(128 + result["signal"])
    return result


def follow() -> int:
    """Do the part of this rank in every job that rank 0 announces; return the exit status that rank 0 ends with."""
    while True:
        store = _connect()
        store.wait([f"job/{_jobs}"], PATIENCE)
        job = json.loads(store.get(f"job/{_jobs}"))
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
