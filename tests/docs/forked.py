"""Programs in forks of this process, which has imported torch and zerokit already: a second in place of ten each."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch._dynamo  # noqa: F401  what a run imports on the way takes seconds: once, before processes fork

import zerokit.cli
import zerokit.cli.train
import zerokit.estimate.start
import zerokit.train.worker  # noqa: F401
from tests.commands import OUTSIDE

_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Result:
    """How a program ended, and what it printed."""

    status: int
    output: str
    errors: str


def program(words: list[str], here: Path, ranks: int = 1, timeout: float = 150) -> Result:
    """Run `zerokit …`, or a script with its arguments, in the folder `here`; with `ranks` as torchrun starts them.

    Returns the highest status of the ranks, and what they printed one after the other.
    """
    environments = [{}]
    if ranks > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        sizes = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        environments = [{"RANK": str(r), "LOCAL_RANK": str(r), **sizes, **meeting} for r in range(ranks)]
    folder = here / "printed"
    folder.mkdir(exist_ok=True)
    files = [(folder / f"{rank}.out", folder / f"{rank}.err") for rank in range(ranks)]
    processes = [
        _fork.Process(target=_main, args=(words, here, environment, *pair))
        for environment, pair in zip(environments, files, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
    output, errors = ("".join(pair[i].read_text(errors="replace") for pair in files) for i in (0, 1))
    return Result(max(abs(process.exitcode) for process in processes), output, errors)


def _main(words: list[str], here: Path, environment: dict[str, str], out: Path, err: Path) -> None:
    os.setsid()
    os.chdir(here)
    for name in OUTSIDE:
        os.environ.pop(name, None)
    os.environ |= {"WANDB_MODE": "offline", **environment}
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in ((0, "r"), (1, "w"), (2, "w")))
    sys.argv = words
    status = 0
    try:
        if words[0] == "zerokit":
            zerokit.cli.main(words[1:])
        else:
            sys.path.insert(0, str(here))
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
