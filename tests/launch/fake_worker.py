"""A worker without training: what it does on rank 1 is told by `run.tags`."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import torch
import torch.distributed as dist

from zerokit.comm import process
from zerokit.config.schema import Config


def run(config: dict[str, Any], run_dir: str) -> dict[str, Any]:
    cfg = Config.from_dict(config)
    with process.start(cfg.launch) as me:
        print(f"output of rank {me.rank} at stage {cfg.zero.stage}", flush=True)
        total = torch.ones(1)
        dist.all_reduce(total)
        if "disk" in cfg.run.tags:
            _open("data")
        if me.rank == 1:
            _misbehave(cfg)
        dist.all_reduce(total)
        threads = torch.get_num_threads()
        return {"loss": float(total), "rank": me.rank, "stage": cfg.zero.stage, "run_dir": run_dir, "threads": threads}


def _open(path: str) -> None:
    open(path).close()


def _misbehave(cfg: Config) -> None:
    if "raise" in cfg.run.tags or f"raise at stage {cfg.zero.stage}" in cfg.run.tags:
        raise ValueError("the cause")
    if "restart" in cfg.run.tags and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        raise ValueError("only at first")
    if "kill" in cfg.run.tags:
        os.kill(os.getpid(), signal.SIGKILL)
    if "exit" in cfg.run.tags:
        sys.exit(3)
    if "sleep" in cfg.run.tags:
        time.sleep(60)


def run_and_report(config: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """As `run`; rank r also leaves its result in `logs/resultR`."""
    result = run(config, run_dir)
    with open(f"{run_dir}/logs/result{result['rank']}", "w") as file:
        print(result["stage"], result["loss"], file=file)
    return result


if __name__ == "__main__":
    import zerokit
    import zerokit.launch

    zerokit.launch.WORKER = "tests.launch.fake_worker:run_and_report"
    zerokit.main()
