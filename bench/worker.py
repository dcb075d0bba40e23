"""One process of one run: `python -m bench.worker SPEC`, started by `bench.launch`."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench import measure
from bench.cases import CASES, Case
from bench.data import Batches
from bench.facts import settings
from bench.model import build
from bench.systems import NAMES, Setup, adapter, parse


def join(device_type: str, timeout: float) -> tuple[int, int, torch.device]:
    """Rank, number of processes and device; opens the process group."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    cuda = device_type == "cuda"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    dist.init_process_group(
        "nccl" if cuda else "gloo", timeout=timedelta(seconds=timeout), device_id=device if cuda else None
    )
    return rank, world, device


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """Build the system, measure it, and return what all ranks saw."""
    rank, world, device = join(spec["device"], spec["timeout"])
    case, system = CASES[spec["case"]], parse(spec["system"])
    setup = Setup(
        case, rank, world, device, NAMES[system.name][2], system.options, spec["precision"], spec["seed"], spec["lr"]
    )
    built = adapter(system.name)(setup)
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()  # what building the model took is no part of what training reserves
        torch.cuda.synchronize()
    startup_s = time.time() - spec["launched"]
    batches = Batches(case, rank, world, device, spec["data"], spec["seed"])
    window = measure.run(built, batches, spec["warmup"], spec["steps"], device)
    losses = torch.stack([loss.float() for loss in window.losses])
    dist.all_reduce(losses)
    record = _record(case, _exchange(Path(spec["folder"]), rank, world, window)) | {
        "startup_s": startup_s,
        "losses": (losses / world).tolist(),
        "warmup": spec["warmup"],
        "settings": settings(),
    }
    built.close()
    return record


def _exchange(folder: Path, rank: int, world: int, window: measure.Window) -> list[dict[str, Any]]:
    """Every rank's figures, through files: torch's way to gather objects needs NumPy."""
    own = {key: value for key, value in vars(window).items() if key != "losses"}
    (folder / f"rank{rank}.json").write_text(json.dumps(own))
    dist.barrier()
    return [json.loads((folder / f"rank{other}.json").read_text()) for other in range(world)]


def _record(case: Case, ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """The slowest rank's times and the largest peaks."""
    slowest = max(ranks, key=lambda rank: rank["window_s"])
    peaks = {key: max(rank["memory"][key] for rank in ranks) for key in slowest["memory"]}
    return {
        "world": len(ranks),
        **{key: slowest[key] for key in ("step_ms", "issue_ms", "window_s")},
        "warmup_s": max(rank["warmup_s"] for rank in ranks),
        "flops_per_token": build(case).flops_per_token(case.seq_len),
        "tokens_per_step": case.tokens,
        **peaks,
    }


def main() -> None:
    """Run what the argument says; rank 0 writes the record, a failing rank its error."""
    spec = json.loads(sys.argv[1])
    folder, rank = Path(spec["folder"]), int(os.environ["RANK"])
    status = 0
    try:
        record = run(spec)
        if rank == 0:
            (folder / "record.json").write_text(json.dumps(record))
        dist.barrier()
    except BaseException as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}".strip()
        (folder / f"error{rank}.json").write_text(json.dumps({"rank": rank, "time": time.time(), "error": text}))
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # everything is written; some systems hang or crash when they are taken down


if __name__ == "__main__":
    main()
