"""Compare training systems on one machine: `python -m bench.compare --cases tiny --systems zerokit-3 fsdp2`."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import facts as machine
from bench import launch
from bench.cases import CASES, Case
from bench.data import SOURCES
from bench.results import Result
from bench.systems import NAMES, parse, why_missing

LEAST_S = 3.0
"""A run is not worth starting with less time than this."""


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    add = parser.add_argument
    add("--cases", nargs="+", default=["tiny"], help=f"among {', '.join(CASES)}")
    add("--systems", nargs="+", default=["zerokit-3", "fsdp2"], help=f"NAME[:option=value,…], among {', '.join(NAMES)}")
    add("--steps", type=int, default=10, help="timed steps of a run (10)")
    add("--warmup", type=int, default=4, help="steps before them (4)")
    add("--rounds", type=int, default=2, help="runs of each system, taking turns: A B C A B C (2)")
    add("--nproc", type=int, help="processes, one per GPU (all GPUs; 2 on a CPU)")
    add("--device", choices=("auto", "cuda", "cpu"), default="auto")
    add("--precision", choices=("bf16", "fp32"), default="bf16")
    add("--data", choices=SOURCES, help="tokens: synthetic, or stdlib, real text (synthetic; stdlib with --curve)")
    add("--curve", type=int, metavar="N", help="losses of N steps, the warm-up's among them; one round")
    add("--baseline", help="the system that speeds are relative to (the fastest fsdp2)")
    add("--lr", type=float, default=1e-4)
    add("--seed", type=int, default=0)
    add("--timeout", type=float, default=600.0, help="seconds that one run may take (600)")
    add("--budget", type=float, help="seconds for everything; runs that would not fit are skipped")
    add("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results (bench/results)")
    add("--commit", help="commit to record (BENCH_COMMIT, else that of git)")
    add("--against", type=Path, metavar="PATH", help="another checkout, which runs zerokit's systems before this one")
    add("--against-commit", help="commit of the other checkout (that of git)")
    args = parser.parse_args(argv)
    _check(parser, args)
    args.trees = [Tree(machine.ROOT)]
    if args.against is not None:
        args.trees.insert(0, _other_tree(parser, args))
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for name in args.cases:
        if name not in CASES:
            parser.error(f"--cases: expected some of {', '.join(CASES)}; got '{name}'.")
    for text in args.systems:
        try:
            parse(text)
        except ValueError as error:
            parser.error(str(error))
    if len(set(args.systems)) < len(args.systems):
        parser.error("--systems: each system once; --rounds repeats them.")
    if args.curve is not None:
        args.steps, args.rounds = args.curve - args.warmup, 1
        if args.steps < 1:
            parser.error(f"--curve: expected more steps than the warm-up's {args.warmup}; got {args.curve}.")
    for name, least in (("steps", 1), ("warmup", 0), ("rounds", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name}: expected at least {least}; got {getattr(args, name)}.")
    args.data = args.data or ("synthetic" if args.curve is None else "stdlib")
    gpus = torch.cuda.device_count()
    if args.device == "auto":
        args.device = "cuda" if gpus else "cpu"
    args.nproc = args.nproc or (gpus if args.device == "cuda" else 2)
    if args.device == "cuda" and args.nproc > gpus:
        parser.error(f"--nproc: each process needs a GPU of its own; expected at most {gpus}, got {args.nproc}.")


def _other_tree(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Tree:
    root = args.against.resolve()
    for part in ("zerokit/__init__.py", "bench/worker.py"):
        if not (root / part).is_file():
            parser.error(
                f"--against: expected the root of a checkout of zerokit; there is no {part} in {args.against}."
            )
    if root == machine.ROOT:
        parser.error("--against: this is the checkout that runs; name another one.")
    if not any(text.startswith("zerokit-") for text in args.systems):
        parser.error(f"--against: expected a system of zerokit among --systems; got {', '.join(args.systems)}.")
    return Tree(root, f"@{root.name}/", args.against_commit or machine.commit(root))


@dataclass(frozen=True)
class Tree:
    """A checkout that runs systems. prefix: of their names in the results; commit: known of another one than this."""

    root: Path
    prefix: str = ""
    commit: str | None = None


class Clock:
    """The time that is left, and how long runs have taken."""

    def __init__(self, budget: float | None, timeout: float) -> None:
        self._end = None if budget is None else time.monotonic() + budget
        self._timeout = timeout
        self._taken: dict[tuple[str, str], float] = {}

    def allows(self, case: str, system: str) -> tuple[float, str | None]:
        """Seconds that the next run may take, and why it is skipped, if it is."""
        if self._end is None:
            return self._timeout, None
        left = self._end - time.monotonic()
        needed = self._taken.get((case, system), LEAST_S)
        if left < needed:
            return 0.0, f"it needs about {needed:.0f} s, --budget leaves {max(left, 0):.0f} s"
        return min(self._timeout, left), None

    def took(self, case: str, system: str, seconds: float) -> None:
        """Remember a run."""
        self._taken[case, system] = seconds


def one_run(args: argparse.Namespace, case: Case, system: str, tree: Tree, nproc: int, clock: Clock) -> dict[str, Any]:
    """Run a system of a checkout once, or say why not."""
    missing = why_missing(parse(system).name)
    if missing:
        return {"status": "missing", "reason": missing}
    timeout, reason = clock.allows(case.name, tree.prefix + system)
    if reason:
        return {"status": "skipped", "reason": reason}
    keys = ("device", "precision", "data", "steps", "warmup", "lr", "seed")
    spec = {"case": case.name, "system": system} | {key: getattr(args, key) for key in keys}
    began = time.monotonic()
    record = launch.run(spec, nproc, timeout, str(tree.root))
    seconds = time.monotonic() - began
    clock.took(case.name, tree.prefix + system, seconds)
    return record | {"seconds": seconds}


def lineup(args: argparse.Namespace) -> list[tuple[str, Tree]]:
    """What runs in a round, in order: every system in this checkout, zerokit's in the other one just before."""
    own = args.trees[-1:]
    return [(text, tree) for text in args.systems for tree in (args.trees if text.startswith("zerokit-") else own)]


def compare(args: argparse.Namespace, case: Case, facts: dict[str, Any], clock: Clock) -> Result:
    """All rounds of one case."""
    nproc = args.nproc if case.gpus is None else min(case.gpus, args.nproc)
    header = {"nproc": nproc, "precision": args.precision, "data": args.data, "curve": args.curve is not None}
    header |= {"lr": args.lr, "seed": args.seed, "steps": args.steps, "wanted_baseline": args.baseline}
    if args.against is not None:
        header["against"] = {"prefix": args.trees[0].prefix, "commit": args.trees[0].commit}
    result = Result(args.out, case.to_dict(), facts, header)
    waiting = lineup(args)
    for turn in range(args.rounds):
        for system, tree in tuple(waiting):
            record = one_run(args, case, system, tree, nproc, clock)
            result.add({"system": tree.prefix + system, "round": turn, **record})
            _say(case.name, turn, tree.prefix + system, record)
            if record["status"] in ("failed", "missing"):
                waiting.remove((system, tree))  # it would fail again, and time on a GPU is dear
    return result


def _say(case: str, turn: int, system: str, record: dict[str, Any]) -> None:
    if record["status"] == "ok":
        step = sorted(record["step_ms"])[len(record["step_ms"]) // 2]
        text = f"{step:.1f} ms a step, {record['seconds']:.0f} s in all"
    else:
        text = f"{record['status']}: {record['reason']}"
    print(f"{case} round {turn + 1} {system}: {text}", file=sys.stderr, flush=True)
    if "log" in record:
        print(record["log"], file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> list[Path]:
    """Run the comparisons, print their tables, and return the JSON files."""
    argv = sys.argv[1:] if argv is None else argv
    args = arguments(argv)
    shown = [args.trees[0].prefix if word == str(args.against) else word for word in argv]
    facts = machine.collect(args.device, args.commit, shown)
    clock = Clock(args.budget, args.timeout)
    paths = []
    for name in args.cases:
        result = compare(args, CASES[name], facts, clock)
        print(result.table(), flush=True)
        paths.append(result.path)
    return paths


if __name__ == "__main__":
    main()
