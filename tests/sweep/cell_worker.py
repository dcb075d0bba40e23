"""A worker that trains nothing and leaves the files of a run; `train.seed` tells what befalls it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from zerokit.config.schema import Config
from zerokit.record.metrics import MetricsFile
from zerokit.record.summary import first_facts, write_summary

FINE, RAISES, KILLED, SLEEPS, FAILS_ONCE, SHOWS, FILLS = range(7)


def run(config: dict[str, Any], run_dir: str) -> dict[str, Any]:
    cfg, folder = Config.from_dict(config), Path(run_dir)
    summary = first_facts(config, 1)
    first = os.environ["RANK"] == "0"
    if first:
        write_summary(folder, summary)
    with MetricsFile(folder / "metrics.jsonl") as metrics:
        for step in range(1, cfg.train.steps + 1):
            row = {"train/loss": 8.0 / step + cfg.zero.stage, "perf/tokens_per_sec": 1000.0 * (1 + cfg.zero.stage)}
            metrics.log(row | {"memory/max_allocated_gib": 0.5}, step)
    _befall(cfg, folder)
    summary |= {"status": "finished", "steps": cfg.train.steps, "loss": 8.0 / cfg.train.steps + cfg.zero.stage,
                "tokens_per_sec": 1000.0 * (1 + cfg.zero.stage), "max_allocated_gib": [0.5],
                "weights_sha256": f"{cfg.train.seed}"}  # fmt: skip
    if first:
        write_summary(folder, summary)
    return summary


def _befall(cfg: Config, folder: Path) -> None:
    if cfg.train.seed == RAISES:
        raise ValueError("the cause")
    if cfg.train.seed == KILLED:
        os.kill(os.getppid(), signal.SIGKILL)  # the process of the cell, not only its worker
        time.sleep(60)
    if cfg.train.seed == SLEEPS:
        time.sleep(60)
    if cfg.train.seed == FILLS and cfg.model.options.layers > 5 * (1 + cfg.zero.stage):
        raise RuntimeError("CUDA out of memory")
    mark = folder.parent / "failed-once"
    if cfg.train.seed == FAILS_ONCE and not mark.exists():
        mark.touch()
        raise ValueError("only at first")
    if cfg.train.seed == SHOWS:
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        (folder / "place").write_text(f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'all')} {cores} {time.time()}")


if __name__ == "__main__":
    import zerokit
    import zerokit.launch

    zerokit.launch.WORKER = "tests.sweep.cell_worker:run"
    zerokit.main()
