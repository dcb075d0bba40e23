"""Fresh processes for one run of one system: start, wait, and say in one line what went wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

from bench.systems import PINNED, parse

GRACE_S = 5.0
"""Time that the other ranks have to say what went wrong once one has failed, or to end once the record is there."""
LOG_TAIL = 3000
ROOT = str(Path(__file__).resolve().parent.parent)


def run(spec: dict[str, Any], nproc: int, timeout: float, root: str = ROOT) -> dict[str, Any]:
    """The record of a run: status `ok` with its figures, or `failed` with a `reason` and the end of the log.

    root: of the checkout whose `bench.worker` and zerokit run.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        spec = spec | {"folder": name, "launched": time.time(), "timeout": timeout}
        # Hosted here, as torchrun does: a port that was free a moment ago may have been taken by a run beside this one.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        with (folder / "log").open("wb") as log:
            processes = _start(spec, nproc, log, store.port, root)
            try:
                late = not _wait(processes, folder, time.monotonic() + timeout)
            finally:
                _kill(processes)
        return _result(folder, processes, timeout if late else None, root)


def environment(system: str, root: str = ROOT) -> dict[str, str]:
    """Variables for the processes of a system: those of this process, the shared caches, and its own."""
    caches = Path(tempfile.gettempdir()) / "zerokit-bench"
    env = {"TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"), "TRITON_CACHE_DIR": str(caches / "triton")}
    env |= os.environ
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (root, env.get("PYTHONPATH"))))
    return env | PINNED | parse(system).env


def _start(spec: dict[str, Any], nproc: int, log: Any, port: int, root: str) -> list[subprocess.Popen]:
    env = environment(spec["system"], root)
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    env |= {"WORLD_SIZE": str(nproc), "LOCAL_WORLD_SIZE": str(nproc), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "bench.worker", json.dumps(spec)]
    return [
        subprocess.Popen(
            command,
            cwd=root,  # the first place where `-m` looks
            env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for rank in range(nproc)
    ]


def _wait(processes: list[subprocess.Popen], folder: Path, deadline: float) -> bool:
    """Wait until all have ended, or one has failed; False if time ran out first."""
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        if all(code is not None for code in codes):
            return True
        if any(codes) or (folder / "record.json").exists():
            deadline = min(deadline, time.monotonic() + GRACE_S)
        time.sleep(0.05)
    return any(process.returncode for process in processes) or (folder / "record.json").exists()


def _kill(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _result(folder: Path, processes: list[subprocess.Popen], timeout: float | None, root: str) -> dict[str, Any]:
    if (folder / "record.json").exists():
        return {"status": "ok"} | json.loads((folder / "record.json").read_text())
    log = (folder / "log").read_text(errors="replace")[-LOG_TAIL:]
    return {
        "status": "failed",
        "reason": _without_paths(_reason(folder, processes, timeout), root),
        "log": _without_paths(log, root),
    }


def _reason(folder: Path, processes: list[subprocess.Popen], timeout: float | None) -> str:
    errors = [json.loads(path.read_text()) for path in folder.glob("error*.json")]
    if errors:
        first = min(errors, key=lambda error: error["time"])
        return one_line(f"rank {first['rank']}: {first['error']}")
    if timeout is not None:
        return f"not done after {timeout:.0f} s; raise --timeout or --budget"
    codes = ", ".join(str(process.returncode) for process in processes)
    return f"ended without a result, exit codes {codes}"


def _without_paths(text: str, root: str) -> str:
    """Results are published: they name no folders of the machine."""
    for path, name in (
        (root, "."),
        (ROOT, "."),
        (sys.prefix, "PYTHON"),
        (sys.base_prefix, "PYTHON"),
        (str(Path.home()), "~"),
    ):
        if len(path) > 1:
            text = text.replace(path, name)
    return text


def one_line(text: str, width: int = 240) -> str:
    """The text on one line, cut to `width`."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
