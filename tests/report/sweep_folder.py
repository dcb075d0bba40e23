"""A folder of a sweep as one would find it: most cells finished, one failed, one running, one never started."""

from __future__ import annotations

import json
import math
from pathlib import Path

from zerokit.record.metrics import MetricsFile

GIB = 1 << 30
STAGES, PRECISIONS, STEPS = range(4), ("fp32", "bf16"), 200


def make(directory: Path) -> Path:
    """Write the folder and return it."""
    cells = []
    for place, (stage, precision) in enumerate((stage, precision) for stage in STAGES for precision in PRECISIONS):
        name = f"stage{stage}-{precision}-llama-{place:08x}"
        entry = {"folder": name, "label": f"stage{stage} {precision}", "state": "finished", "reason": ""}
        words = [f"zero=stage{stage}", f"precision={precision}", "model=llama_1b", "sweep.parallel=2"]
        entry |= {"words": words, "predicted_gib": None}
        cells.append(entry)
        peak = (31.5, 19.25, 15.5, 11.75)[stage] * (1 if precision == "fp32" else 0.62)
        if (stage, precision) == (0, "fp32"):
            entry |= {"state": "too large", "reason": "predicted 91.2 GiB, the GPU has 79.6 GiB", "predicted_gib": 91.2}
            continue
        cell(directory / name, stage, precision, peak, place)
        if (stage, precision) == (1, "fp32"):
            error = "rank 1: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
            change(directory / name, status="failed", error=error, weights_sha256=None)
            entry |= {"state": "failed", "reason": error}
        if (stage, precision) == (3, "bf16"):
            (directory / name / "summary.json").write_text(json.dumps({"status": "running", "world_size": 8}))
            text = (directory / name / "metrics.jsonl").read_text()
            (directory / name / "metrics.jsonl").write_text(text[: len(text) // 2])  # in the middle of a line
            entry["state"] = "running"
    command = "python -m zerokit -m zero=stage0,stage1,stage2,stage3 precision=fp32,bf16 model=llama_1b"
    (directory / "sweep.json").write_text(json.dumps({"command": command, "cells": cells}))
    return directory


def cell(folder: Path, stage: int, precision: str, peak: float, place: int) -> None:
    """Write the files of a finished cell."""
    speed = (52000, 51000, 46500, 41000)[stage] * (1 if precision == "fp32" else 1.9)
    with MetricsFile(folder / "metrics.jsonl") as metrics:
        for step in range(5, STEPS + 1, 5):
            loss = 2.4 + 8 * math.exp(-step / 40) + 0.05 * math.sin(step / 7) + 0.15 * (precision == "bf16")
            loss += 1e-5 * (stage == 3)
            metrics.log({"train/loss": loss, "perf/tokens_per_sec": speed, "memory/max_allocated_gib": peak}, step)
    states = {
        "parameters": (4, 4, 4, 0.5)[stage],
        "gradients": (4, 4, 0.5, 0.5)[stage],
        "optimizer": (8, 1, 1, 1)[stage],
    }
    row = {kind: gib * GIB for kind, gib in states.items()}
    row |= {"other": (peak - sum(states.values())) * GIB, "total": peak * GIB}
    summary = {
        "status": "finished",
        "steps": STEPS,
        "tokens": STEPS * 8192,
        "seconds": STEPS * 8192 / speed,
        "loss": 2.4 + 0.15 * (precision == "bf16"),
        "tokens_per_sec": speed,
        "max_allocated_gib": [peak, peak - 0.25],
        "memory": [row, row | {"other": row["other"] - GIB / 4}],
        "predicted_gib": peak * (1 + 0.01 * (place - 4)),
        "world_size": 8,
        "device": "NVIDIA H100",
        "model": {"name": "llama", "parameters": 1_235_814_400},
        "weights_sha256": f"{precision}{'x' if stage == 3 else ''}",
        "command": f"python -m zerokit zero=stage{stage} precision={precision} model=llama_1b",
        "zero": {"stage": stage},
        "precision": precision,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(
        json.dumps({"zero": {"stage": stage}, "precision": {"name": precision}, "model": {"name": "llama"}})
    )


def change(folder: Path, **values: object) -> None:
    """Change values of a cell's summary."""
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


if __name__ == "__main__":
    import sys

    make(Path(sys.argv[1]))
