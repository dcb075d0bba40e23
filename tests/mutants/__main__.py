"""`python -m tests.mutants`: faults put into the ZeRO core one at a time, and whether the tests notice them.

A mutant is noticed when a test fails or does not end. The tests nearest to its file come first, then the others of the
core, the fuzzer, and what stands on the core; with `--budget` it stops after so many seconds and may go on later.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.sites import Mutant, mutants

ROOT = Path(__file__).parents[2]
PACKAGE = Path("zerokit/zero")
COPIED = ("zerokit", "conf", "hydra_plugins")
ELSEWHERE = ("state", "train", "compat", "optimizer", "checkpointing", "record", "estimate", "precision", "model")
TIMEOUTS_S = (900, 1800, 1200, 3600)
"""Of each group of tests; several times what they take."""


def groups(file: str) -> list[list[str]]:
    """Folders and files of tests in the order in which they are asked about a fault in `file`."""
    near = Path("tests") / Path(file).relative_to("zerokit").parent
    named = near / f"test_{Path(file).stem}.py"
    first = [str(named)] if (ROOT / named).exists() else []
    first += [str(near)] if near != Path("tests/zero") else ["tests/zero/test_engine.py", "tests/zero/test_parity.py"]
    return [first, ["tests/zero"], ["tests/fuzz"], [f"tests/{name}" for name in ELSEWHERE]]


def noticed(mutant: Mutant) -> str:
    """The first test that notices a mutant; empty if none does."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        for name in COPIED:
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        mutant.apply(Path(folder))
        for paths, timeout_s in zip(groups(mutant.file), TIMEOUTS_S, strict=True):
            found = _ask(folder, paths, timeout_s)
            if found:
                return found
    return ""


def _ask(folder: str, paths: list[str], timeout_s: float) -> str:
    """The first test in `paths` that fails with the package in `folder`."""
    context = multiprocessing.get_context("fork")
    said = Path(folder) / "said"
    said.unlink(missing_ok=True)
    process = context.Process(target=_run, args=(folder, paths, said))
    process.start()
    process.join(timeout_s)
    late = process.is_alive()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # with what it started
    process.join()
    text = said.read_text() if said.exists() else ""
    return text or ("does not end: " + " ".join(paths) if late else "" if process.exitcode == 0 else "the tests' end")


def _run(folder: str, paths: list[str], said: Path) -> None:
    """In a process of its own: the tests, quietly, up to the first that fails."""
    import pytest

    class First:
        def pytest_runtest_logreport(self, report) -> None:
            if report.failed and not said.exists():
                said.write_text(report.nodeid)

        def pytest_collectreport(self, report) -> None:
            if report.failed and not said.exists():
                said.write_text(report.nodeid + " (import)")

    os.setpgid(0, 0)
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, str(ROOT)])
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(silence, stream)
    options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-m", "not gpu and not chaos and not hosts"]
    os._exit(pytest.main([*paths, *options], plugins=[First()]))


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="mutants, drawn at random from all of the package")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--budget", type=float, default=None, help="seconds after which no mutant is begun")
    parser.add_argument("--results", type=Path, default=Path("outputs/mutants.jsonl"), help="one line per mutant")
    options = parser.parse_args()
    everything = [
        m for path in sorted((ROOT / PACKAGE).rglob("*.py")) for m in mutants(ROOT, str(path.relative_to(ROOT)))
    ]
    drawn = random.Random(options.seed).sample(everything, min(options.count, len(everything)))
    options.results.parent.mkdir(parents=True, exist_ok=True)
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    known = {line["mutant"]: line["noticed"] for line in map(json.loads, lines)}
    import torch  # noqa: F401  here once, and not in each process

    begin = time.monotonic()
    for number, mutant in enumerate(drawn):
        if options.budget is not None and time.monotonic() - begin > options.budget:
            break
        if str(mutant) not in known:
            known[str(mutant)] = noticed(mutant)
            with options.results.open("a") as file:
                file.write(json.dumps({"mutant": str(mutant), "noticed": known[str(mutant)]}) + "\n")
        print(f"{number + 1:4} {known[str(mutant)] or 'SURVIVES'}  {mutant}", flush=True)
    run = [known[str(m)] for m in drawn if str(m) in known]
    print(f"{sum(map(bool, run))} of {len(run)} noticed ({len(everything)} could be drawn)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
