"""What saving costs a training: `python -m bench.save --case llama-1.5b-1x2048 --every 100 --folder /fast/disk`.

Windows of `--every` steps with one save at their beginning take turns with windows without. The save is drained
outside the windows, so a slow disk shows as `write_s`, not as step time; `steps_a_write_takes` says how often one could
save without waiting for the disk. `--trace` prints the times of single steps around a save.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import xxhash

from bench.cases import CASES
from bench.data import Batches
from bench.facts import commit
from bench.measure import Marks, _synchronise
from bench.systems import NAMES, Setup, adapter, parse
from bench.worker import join
from zerokit.comm.process import close_group
from zerokit.config.schema import StateConfig
from zerokit.state import save
from zerokit.state.disk import Disk
from zerokit.state.folder import FOLDER, step_path
from zerokit.state.snapshot import WRITE_BYTES, HostCopy
from zerokit.train.saving import Saver


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The options on the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.save", description=__doc__.partition("\n")[0])
    parser.add_argument("--case", default="llama-1.5b-1x2048", choices=CASES)
    parser.add_argument("--system", default="zerokit-3", help="zerokit at a stage, with options")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--every", type=int, default=100, help="steps per save, and per window")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of windows")
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--nproc", type=int, default=max(1, torch.cuda.device_count()) if _has_gpu() else 2)
    parser.add_argument("--device", default="cuda" if _has_gpu() else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--folder", type=Path, default=None, help="where to save (a temporary folder)")
    parser.add_argument("--trace", action="store_true")
    return parser.parse_args(words)


def _has_gpu() -> bool:
    return torch.cuda.is_available()


WORDS = "BENCH_SAVE_WORDS"
"""Variable with the command line, for the ranks."""
DIGEST_BYTES = 1 << 30
"""Of the test of what digests cost."""


class Windows:
    """Times windows of steps on the device, with and without a save."""

    def __init__(self, system: Any, saver: Saver, batches: Batches, device: torch.device, steps: int) -> None:
        self.system, self.saver, self.device, self.steps = system, saver, device, steps
        self.batch = batches(0)
        self.saves = 0

    def run(self, save: bool, steps: int | None = None) -> dict[str, Any]:
        """Milliseconds of each step; with `save` also what the save took."""
        marks, stall = Marks(self.device), 0.0
        _synchronise(self.device)
        dist.barrier()
        began = time.perf_counter()
        marks.set()
        for index in range(steps or self.steps):
            self.system.step(*self.batch)
            if save and index == 0:
                self.saves += 1
                began_save = time.perf_counter()
                self.saver.save_now(self.saves)
                stall = time.perf_counter() - began_save
            marks.set()
        _synchronise(self.device)
        window = time.perf_counter() - began
        self.saver.drain()
        found = {"step_ms": 1000 * window / (steps or self.steps), "steps": marks.milliseconds()}
        if save:
            found |= {"host_stall_ms": 1000 * stall, "write_s": self.saver.write_s}
        return found


def _saver(engine: Any, folder: Path) -> Saver:
    """A saver of a loop that has no trainer."""
    one = {"options": SimpleNamespace(steps=1), "progress": SimpleNamespace(step=0)}  # states are not counted here
    trainer = SimpleNamespace(engine=engine, comm=engine.comm, state=dict, tensors=dict, **one)
    return Saver(trainer, folder / FOLDER, StateConfig(every=1, keep=1), {}, {})


class _NoDigest:
    def update(self, data: memoryview) -> None: ...

    def hexdigest(self) -> str:
        return ""


def _seconds_to_write(copy: HostCopy, path: Path, digest: Any) -> float:
    """To write the first gigabyte of this rank's file as a save does, with a digest of that kind."""
    began = time.perf_counter()
    with mock.patch.object(save.xxhash, "xxh3_128", digest):
        save._write_file(Disk(), path, itertools.islice(copy.stream(), DIGEST_BYTES // WRITE_BYTES))
    took = time.perf_counter() - began
    path.unlink()
    return took


def _digest_costs(copy: HostCopy, path: Path) -> float:
    """Per cent of the time of a write that its digest adds: medians of writes with and without, taking turns."""
    times: dict[Any, list[float]] = {_NoDigest: [], xxhash.xxh3_128: []}
    for _ in range(3):
        for digest, took in times.items():
            took.append(_seconds_to_write(copy, path, digest))
    without, having = (_median(took) for took in times.values())
    return 100 * (having / without - 1)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the windows on this rank and return the figures of the slowest rank."""
    rank, world, device = join(options.device, 1800)
    case, system = CASES[options.case], parse(options.system)
    setup = Setup(case, rank, world, device, NAMES[system.name][2], system.options, options.precision)
    built = adapter(system.name)(setup)
    folder = Path(os.environ["BENCH_SAVE_FOLDER"])
    saver = _saver(built.engine, folder)
    began = time.perf_counter()
    saver.prepare()
    prepare_s = time.perf_counter() - began
    windows = Windows(built, saver, Batches(case, rank, world, device, "synthetic", 0), device, options.every)
    windows.run(False, options.warmup)
    windows.run(True, options.warmup)
    plain, saving = [], []
    for _ in range(options.rounds):
        plain.append(windows.run(False))
        saving.append(windows.run(True))
    gigabytes, digest_pct = saver._copy.nbytes / 1e9, _digest_costs(saver._copy, folder / f"digest-test{rank}")
    began = time.perf_counter()
    built.engine.load(step_path(saver.root, windows.saves))
    _synchronise(device)
    load_s = time.perf_counter() - began
    middle = _median([w["step_ms"] for w in plain]), _median([w["step_ms"] for w in saving])
    write_s = _median([w["write_s"] for w in saving])
    own = {
        "step_ms": middle[0], "step_ms_saving": middle[1], "overhead_pct": 100 * (middle[1] / middle[0] - 1),
        "host_stall_ms": _median([w["host_stall_ms"] for w in saving]), "write_s": write_s,
        "steps_a_write_takes": 1000 * write_s / middle[0], "digest_pct_of_write": digest_pct,
        "gb_per_rank": gigabytes, "write_gb_per_s": gigabytes / write_s, "load_s": load_s, "prepare_s": prepare_s,
    }  # fmt: skip
    if options.trace and rank == 0:
        print("steps without:", [round(ms, 1) for ms in plain[-1]["steps"][:8]])
        print("steps with a save after the first:", [round(ms, 1) for ms in saving[-1]["steps"][:8]])
    rows = saver._exchange.gather(own)
    worst = {key: max(row[key] for row in rows) for key in own} | {
        "write_gb_per_s": min(r["write_gb_per_s"] for r in rows)
    }
    parameters = sum(p for unit in built.engine.units for p in unit.layout.numels)
    size = sum(f.stat().st_size for f in step_path(saver.root, windows.saves).iterdir())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    facts = {"device": f"{world} x {name}", "torch": torch.__version__, "commit": commit(), "parameters": parameters}
    return vars(options) | facts | {"bytes_per_parameter": size / parameters} | worst


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main(words: list[str] | None = None) -> None:
    """Start the ranks, or be one of them; rank 0 prints one JSON object."""
    words = sys.argv[1:] if words is None else words
    worker = os.environ.get(WORDS)  # torchrun would take some of them for its own
    options = arguments(json.loads(worker) if worker else words)
    if worker:
        found = measure(options)
        if dist.get_rank() == 0:
            print(json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in found.items()}, indent=1))
        close_group()
        return
    base = None if options.folder is None else str(options.folder.resolve())
    if base is not None:
        os.makedirs(base, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="bench-save-", dir=base)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(options.nproc)]
    try:
        env = os.environ | {"BENCH_SAVE_FOLDER": folder, WORDS: json.dumps(words)}
        sys.exit(subprocess.run([*command, "-m", "bench.save"], env=env).returncode)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
