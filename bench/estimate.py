"""Predicted against measured: `python -m bench.estimate`, memory and step time of zerokit's runs.

Each cell is predicted first, without its GPUs, then run for a few steps in processes of its own. With `--results` the
runs are those that `bench.compare` has recorded, and no GPU is needed. With `--together N` as many cells share the GPUs
at a time: their memory is measured, their time is not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench import facts as machine
from bench import launch
from bench.cases import CASES
from bench.compare import Clock
from bench.model import options_of
from bench.results import write
from bench.systems import NAMES, Setup, parse
from bench.systems.zerokit import config_of
from zerokit.config.schema import Config
from zerokit.estimate.devices import this_gpu
from zerokit.estimate.machine import find
from zerokit.record.hardware import ENTRIES, Hardware

GIB = 1 << 30
RECORDINGS_SINCE = "2026-11-26"
"""Date from which on files hold the memory of a recorded step; older ones have that of its replays, which need none."""
CELLS = (
    ("llama-1.5b-1x2048", "zerokit-3:reduce_dtype=bf16"),
    ("llama-1.5b-1x2048", "zerokit-2:reduce_dtype=bf16"),
    ("llama-1.5b-1x2048", "zerokit-1:reduce_dtype=bf16"),
    ("llama-1.5b-1x2048", "zerokit-0:reduce_dtype=bf16"),
    ("llama-1.5b-1x2048", "zerokit-3:reduce_dtype=bf16,checkpointing=full"),
    ("llama-1.5b-1x2048", "zerokit-3:reduce_dtype=bf16,transport=collective"),
    ("llama-1.5b-4x4096", "zerokit-3:reduce_dtype=bf16"),
    ("llama-1.5b-4x4096", "zerokit-3:reduce_dtype=bf16,checkpointing=selective"),
    ("llama-1.5b-4x4096", "zerokit-3:reduce_dtype=bf16,checkpointing=full"),
    ("llama-1.5b-4x4096", "zerokit-2:checkpointing=every_k"),
    ("gpt-350m-8x1024", "zerokit-3"),
    ("gpt-350m-8x1024", "zerokit-2:checkpointing=selective"),
    ("gpt-350m-8x1024", "zerokit-2:checkpointing=full"),
    ("gpt-350m-8x1024", "zerokit-1:precision=fp32"),
    ("gpt-350m-8x1024", "zerokit-3:precision=fp16"),
    ("llama-1.5b-8x1x2048", "zerokit-2:reduce_dtype=bf16"),
    ("llama-8b-1x2048", "zerokit-3:reduce_dtype=bf16"),
    ("llama-8b-1x8192", "zerokit-3:reduce_dtype=bf16,checkpointing=full"),
)
TINY = (("tiny", "zerokit-3"), ("tiny-gpt", "zerokit-2:checkpointing=full"))


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="python -m bench.estimate", description=__doc__)
    add = parser.add_argument
    add("--cells", nargs="+", metavar="CASE/SYSTEM", help="a case and a zerokit system (all; the tiny ones on a CPU)")
    add("--results", nargs="+", type=Path, metavar="FILE", help="files of bench.compare, whose runs are the cells")
    add("--hardware", help="entry of zerokit's hardware table (that of the GPU; cpu)")
    add("--steps", type=int, default=8, help="timed steps of a run (8)")
    add("--warmup", type=int, default=4, help="steps before them (4)")
    add("--nproc", type=int, help="processes, one per GPU (2)", default=2)
    add("--together", type=int, help="cells side by side on the same GPUs, for their memory alone (1)", default=1)
    add("--device", choices=("auto", "cuda", "cpu"), default="auto")
    add("--timeout", type=float, default=90.0, help="seconds that one run may take (90)")
    add("--budget", type=float, help="seconds for all runs; those that would not fit are skipped")
    add("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results (bench/results)")
    add("--commit", help="commit to record where there is no git")
    args = parser.parse_args(argv)
    try:
        args.hardware = args.hardware and find(args.hardware)
    except ValueError as error:
        parser.error(f"--hardware: {error}")
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.device_count() else "cpu"
    if args.together < 1:
        parser.error(f"--together: expected at least 1; got {args.together}.")
    cells = [tuple(cell.split("/", 1)) for cell in args.cells or ()]
    for cell in cells:
        if len(cell) != 2 or cell[0] not in CASES or not cell[1].startswith("zerokit-"):
            parser.error(f"--cells: expected CASE/zerokit-STAGE[:options]; got '{'/'.join(cell)}'.")
        try:
            configured(*cell, args.nproc, args.device)
        except ValueError as error:
            parser.error(f"--cells {'/'.join(cell)}: {error}")
    if args.results:
        args.cells = [cell for path in args.results for cell in recorded(path)]
        if not args.cells:
            parser.error("--results: no run of zerokit in these files.")
        if not args.hardware:
            parser.error("--results: --hardware says what entry the runs were on.")
    else:
        cells = cells or list(CELLS if args.device == "cuda" else TINY)
        args.cells = [Cell(case, system, args.nproc) for case, system in cells]
    return args


@dataclass(frozen=True)
class Cell:
    """A zerokit system on a case; measured: its run, if there is one already, and of which commit."""

    case: str
    system: str
    nproc: int
    measured: dict[str, Any] | None = None


def recorded(path: Path) -> list[Cell]:
    """zerokit's runs in a file of `bench.compare`."""
    result = json.loads(path.read_text(encoding="utf-8"))
    cells = []
    for run in result["runs"]:
        if run["status"] == "ok" and run["system"].startswith("zerokit-"):
            measured = {key: value for key, value in run.items() if key not in ("losses", "issue_ms")}
            if "cuda_graph=true" in run["system"] and result["facts"]["date"] < RECORDINGS_SINCE:
                del measured["allocated_gib"]
            measured |= {"file": path.name, "commit": result["facts"]["commit"]}
            system = _in_precision(run["system"], result["precision"])
            cells.append(Cell(result["case"]["name"], system, result["nproc"], measured))
    return cells


def configured(case_name: str, system: str, nproc: int, device: str) -> Config:
    """The configuration that a cell's runs have.

    Raises:
        ValueError: the system, its precision or another of its options is unknown.
    """
    case, parsed = CASES[case_name], parse(system)
    options = {key: value for key, value in parsed.options.items() if key != "precision"}
    setup = Setup(case, 0, nproc, torch.device(device), NAMES[parsed.name][2], options, _precision(system))
    config = config_of(setup)
    config["batch"] = {"micro": case.micro, "accumulation": case.accumulation}
    config["model"] = {"name": case.family, **dataclasses.asdict(options_of(case))}
    data = {"name": "synthetic", "seq_len": case.seq_len, "vocab_size": case.vocab_size, "samples": 16, "held_out": 1}
    return Config.from_dict(config | {"data": data, "scheduler": {"name": "constant"}, "tracker": {"name": "none"}})


def predict(cfg: Config, nproc: int, hardware: Hardware) -> dict[str, Any]:
    """What zerokit predicts for a cell."""
    from zerokit.estimate.simulate import Simulator

    began = time.perf_counter()
    prediction = Simulator(cfg, hardware).predict(cfg, nproc)
    return prediction.to_dict() | {"took_s": time.perf_counter() - began, "hardware": hardware.name}


def _in_precision(system: str, precision: str) -> str:
    """A system of a comparison, which had one precision for all, as a cell has it."""
    return system if precision == "bf16" else f"{system}{',' if ':' in system else ':'}precision={precision}"


def _precision(system: str) -> str:
    return parse(system).options.get("precision", "bf16")


def measure(args: argparse.Namespace, cell: Cell, clock: Clock) -> dict[str, Any]:
    """Run a cell, if there is time."""
    case, system = cell.case, cell.system
    timeout, reason = clock.allows(case, system)
    if reason:
        return {"status": "skipped", "reason": reason}
    parsed = parse(system)
    options = ",".join(f"{key}={value}" for key, value in parsed.options.items() if key != "precision")
    spec = {"case": case, "system": parsed.name + (f":{options}" if options else ""), "device": args.device}
    spec |= {"precision": _precision(system), "data": "synthetic", "steps": args.steps, "warmup": args.warmup}
    record = launch.run(spec | {"lr": 1e-4, "seed": 0}, cell.nproc, timeout)
    for key in ("losses", *(OF_THE_GPU if args.together > 1 else ())):
        record.pop(key, None)
    return record


OF_THE_GPU = ("step_ms", "issue_ms", "window_s", "warmup_s", "startup_s", "device_gib")
"""Figures of a run that mean nothing where it shares its GPUs."""


def row(cell: dict[str, Any]) -> list[str]:
    """A line of the table."""
    predicted, record = cell["predicted"], cell["measured"]
    head = [cell["case"], cell["system"].removeprefix("zerokit-")]
    gib, ms = predicted["peak"] / GIB, predicted["seconds"] * 1000
    if record["status"] != "ok":
        return [*head, f"{gib:.2f}", record.get("reason", record["status"]), "", f"{ms:.1f}", "", ""]
    step = median(record["step_ms"]) if "step_ms" in record else None
    memory = record.get("allocated_gib")
    return [*head, f"{gib:.2f}", *_against(gib, memory, 2), f"{ms:.1f}", *_against(ms, step, 1)]


def _against(predicted: float, measured: float | None, digits: int) -> list[str]:
    return ["–", ""] if measured is None else [f"{measured:.{digits}f}", f"{predicted / measured - 1:+.1%}"]


def render(result: dict[str, Any]) -> str:
    """The Markdown table."""
    facts = result["facts"]
    names = ("case", "stage and options", "predicted GiB", "measured", "off", "predicted ms", "measured", "off")
    lines = [
        f"### Predicted and measured, {result['nproc']} × {facts['gpu']}, {facts['date'][:16]}",
        "",
        f"torch {facts['torch']}, commit {facts['commit'][:12]}, entry {result['hardware']}. Memory: peak of the timed "
        "steps on the fullest rank, peer memory included. Time: median step.",
        "",
        "| " + " | ".join(names) + " |",
        "|" + " --- |" * len(names),
        *("| " + " | ".join(row(cell)) + " |" for cell in result["cells"]),
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> Path:
    """Predict and run every cell, print the table, and return the JSON file."""
    argv = sys.argv[1:] if argv is None else argv
    args = arguments(argv)
    facts = machine.collect(args.device, args.commit, argv) | {"command": " ".join(["python -m bench.estimate", *argv])}
    if args.results:
        ran = json.loads(args.results[0].read_text(encoding="utf-8"))["facts"]
        facts |= {key: ran[key] for key in ("gpu", "torch")}
    device = "cuda" if args.results else args.device
    hardware = args.hardware or (this_gpu() if device == "cuda" else ENTRIES["cpu"])
    predictions = [predict(configured(c.case, c.system, c.nproc, device), c.nproc, hardware) for c in args.cells]
    clock = Clock(args.budget, args.timeout)
    result = {"facts": facts, "nproc": args.nproc, "hardware": hardware.name, "cells": []}
    gpu = facts["gpu"].removeprefix("NVIDIA ").replace(" ", "-")
    path = args.out / f"{facts['date'][:19].replace(':', '-')}_{args.nproc}x{gpu}_estimate.json"
    with ThreadPoolExecutor(args.together) as pool:
        runs = pool.map(lambda cell: cell.measured or measure(args, cell, clock), args.cells)
        for cell, predicted, measured in zip(args.cells, predictions, runs, strict=True):
            facts_of_cell = {"case": cell.case, "system": cell.system, "nproc": cell.nproc}
            result["cells"].append(facts_of_cell | {"predicted": predicted, "measured": measured})
            print(" | ".join(row(result["cells"][-1])), file=sys.stderr, flush=True)
            write(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
            write(path.with_suffix(".md"), render(result))
    print(render(result), flush=True)
    return path


if __name__ == "__main__":
    main()
