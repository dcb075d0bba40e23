"""Many programs: side by side, counted, the failing ones shrunk."""

from __future__ import annotations

import argparse
import datetime
import itertools
import multiprocessing
import os
import platform
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.util import Finalize
from pathlib import Path

import torch

from tests.fuzz.compare import Result
from tests.fuzz.program import Program, generate, singles, smaller
from tests.fuzz.run import Runner

RESULTS = Path(__file__).with_name("RESULTS.md")
_runner: Runner | None = None


def _open() -> None:
    global _runner
    _runner = Runner()
    Finalize(None, _runner.stop, exitpriority=10)  # processes of a pool do not run `atexit`


def _try(program: Program) -> tuple[Program, Result]:
    return program, _runner(program)


def shrink(program: Program, result: Result, runner: Runner) -> tuple[Program, Result]:
    """The smallest program found with the same outcome, leaving out one thing after another."""
    for candidate in smaller(program):
        found = runner(candidate)
        if found.outcome == result.outcome:
            return shrink(candidate, found, runner)
    return program, result


def _shrunk(program: Program, result: Result) -> tuple[Program, Result]:
    return shrink(program, result, _runner)


def seeds(start: int, only: str = "") -> Iterator[Program]:
    """Programs from a seed on, those with a feature."""
    programs = map(generate, itertools.count(start))
    return (program for program in programs if not only or only in program.features())


class Campaign:
    """Runs programs `jobs` at a time, until they or the seconds are over."""

    def __init__(self, jobs: int, seconds: float | None = None):
        self.jobs, self.seconds = jobs, seconds
        self.pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), initializer=_open)
        self.began = time.monotonic()

    def results(self, programs: Iterable[Program]) -> Iterator[tuple[Program, Result]]:
        """Programs with what came out, as they end."""
        running: set[Future] = set()
        for program in itertools.takewhile(lambda _: self._in_time(), programs):
            running.add(self.pool.submit(_try, program))
            if len(running) >= self.jobs:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in running)

    def _in_time(self) -> bool:
        return self.seconds is None or time.monotonic() - self.began < self.seconds

    def shrunk(self, failures: list[tuple[Program, Result]]) -> Iterator[tuple[Program, Result]]:
        """The failures, each made as small as it goes."""
        yield from self.pool.map(_shrunk, *zip(*failures, strict=True)) if failures else ()


def run(options: argparse.Namespace) -> int:
    """A campaign as the command line wants it."""
    campaign = Campaign(options.jobs, options.budget)
    counts, refusals, features, failures, nearest = Counter(), Counter(), defaultdict(Counter), [], (0.0, 0)
    for program, result in campaign.results(_programs(options)):
        nearest = max(nearest, (result.nearness, program.seed))
        counts[result.outcome] += 1
        refusals[result.reason] += result.outcome == "refused"
        for feature in program.features():
            features[feature][result.outcome] += 1
        if not result.fine:
            failures.append((program, result))
            print(f"{program}\n  {result.outcome}: {result.reason.splitlines()[0]}", flush=True)
    took = time.monotonic() - campaign.began
    print(f"\n{sum(counts.values())} programs in {took:.0f} s: {_counted(counts)}")
    print(
        f"Of the programs that were the same, seed {nearest[1]} came nearest to its tolerance: {nearest[0]:.2f} of it."
    )
    for program, result in campaign.shrunk(failures[: options.shrink]):
        print(f"\n{program}\n  {result.outcome}: {result.reason}", flush=True)
    if options.record:
        RESULTS.write_text(report(options, counts, +refusals, features, took), encoding="utf-8")
    return int(bool(failures))


def _programs(options: argparse.Namespace) -> Iterable[Program]:
    if options.singles:
        return itertools.chain(singles(stage=3), singles(stage=0))
    return itertools.islice(seeds(options.seed, options.only), options.programs)


def _counted(counts: Counter) -> str:
    return ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(counts.items()))


def report(
    options: argparse.Namespace, counts: Counter, refusals: Counter, features: dict[str, Counter], took: float
) -> str:
    """The page of results."""
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    size = f"--programs {options.programs}" if options.programs else f"--budget {options.budget:g}"
    command = f"python -m tests.fuzz {size} --seed {options.seed} --jobs {options.jobs} --record"
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    outcomes = ("same", "refused", "invalid", "different", "crash", "hang")
    rows = [
        f"| {name} | " + " | ".join(str(found[outcome]) for outcome in outcomes) + " |"
        for name, found in sorted(features.items())
    ]
    return "\n".join(
        [
            "# What the fuzzer found",
            "",
            f"`{command}`, {when}, {machine}, commit {_commit()}, {took:.0f} s.",
            f"{sum(counts.values()):,} programs: {_counted(counts)}.",
            "",
            "What was refused (`compare.REFUSALS` has the words): " + (_counted(refusals) or "nothing") + ".",
            "`invalid`: PyTorch itself raises, or gives no finite number.",
            "",
            "Programs by feature (a program has several):",
            "",
            f"| feature | {' | '.join(outcomes)} |",
            "|---|" + "---|" * len(outcomes),
            *rows,
            "",
        ]
    )


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"
