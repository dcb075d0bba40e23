"""Long tests of faults, `make test-chaos`: each tries as many of its cases as fit its time, and notes what came out.

`--budget SECONDS` is the time of one test (0: all its cases), `--jobs N` tries N independent cases side by side.
`--record` writes the results into RESULTS.md.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import platform
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
import torch

RESULTS = Path(__file__).with_name("RESULTS.md")


class Budget:
    """Deals out the cases of a test in a random order until its time is over, and takes its result."""

    def __init__(self, name: str, seconds: float, jobs: int, lines: dict[str, str]):
        self.name, self.seconds, self.jobs, self._lines = name, seconds, jobs, lines
        self._began = time.monotonic()

    def cases(self, cases: Sequence[Any], seed: int = 0) -> Iterator[Any]:
        """All cases once, in a random order, as long as there is time."""
        order = list(cases)
        random.Random(seed).shuffle(order)
        for case in order:
            if self.seconds and time.monotonic() - self._began > self.seconds:
                return
            yield case

    def each(self, function: Callable[[Any], Any], cases: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        """Cases with what `function`, of a module, returns for them: `jobs` at a time, in processes of their own."""
        dealt = self.cases(cases)
        with ProcessPoolExecutor(self.jobs, multiprocessing.get_context("fork")) as pool:
            running = {}
            while True:
                while len(running) < self.jobs and (case := next(dealt, None)) is not None:
                    running[pool.submit(function, case)] = case
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(done), done.result()

    def note(self, text: str) -> None:
        """Keep a result; the last one of a test counts."""
        seconds = time.monotonic() - self._began
        when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
        self._lines[self.name] = f"| {self.name} | {text} | {seconds:.0f} s | {when} | {_machine()} | {_commit()} |"


def _machine() -> str:
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def _commit() -> str:
    if told := os.environ.get("BENCH_COMMIT"):  # of a tree that was copied without its git folder
        return told[:7]
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


_lines: dict[str, str] = {}


@pytest.fixture
def budget(request) -> Budget:
    """The test's time and its line in the results."""
    name = request.node.name.removeprefix("test_").replace("_", " ")
    option = request.config.getoption
    return Budget(name, option("--budget", 60.0), option("--jobs", 1), _lines)


def pytest_sessionfinish(session) -> None:
    """Show the results; write them into RESULTS.md, in place of older ones of the same tests, if asked to."""
    for line in _lines.values():
        print(f"\n{line}", file=sys.stderr)
    if not (_lines and session.config.getoption("--record", False)):
        return
    text = RESULTS.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ((?:row|rows) [^|]+) (\|.*)$", text, re.MULTILINE))
    rows |= {name: line.removeprefix(f"| {name} ") for name, line in _lines.items()}
    head = text[: text.index("| test ")]
    table = "| test | result | took | date (UTC) | machine | commit |\n|---|---|---|---|---|---|\n"
    body = "".join(f"| {name} {rest}\n" for name, rest in sorted(rows.items()))
    RESULTS.write_text(head + table + body, encoding="utf-8")
