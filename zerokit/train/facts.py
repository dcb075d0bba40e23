"""What summary.json tells of a training: when it is assembled, on its way, and of a finished one what came out."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch

from zerokit.callbacks import Callback, Run
from zerokit.config.schema import Config
from zerokit.record.metrics import GIB, bits_per_byte
from zerokit.train.assemble import can_record
from zerokit.train.sample import sample
from zerokit.train.trainer import Trainer

STATES = ("parameters", "gradients", "optimizer")
UNITS = {"regression": "mse"}
"""Of the loss, where it is not in nats."""

log = logging.getLogger("zerokit")


def assembled_facts(trainer: Trainer, model: str) -> dict[str, Any]:
    """What is known before the first step."""
    info = trainer.info
    return {
        "device": device_name(trainer.comm.device),
        "model": {"name": model, "parameters": sum(p.numel() for u in trainer.engine.units for p in u.parameters)},
        "data_sha256": info.sha256,
        "flops_per_token": trainer.flops_per_token,
        "peak_tflops": trainer.peak_tflops,
        "counted": info.counted,
        "loss_unit": UNITS.get(info.task, "nats"),
    }


def device_name(device: torch.device) -> str:
    """The name of a GPU as its driver gives it, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def progress_facts(trainer: Trainer | None) -> dict[str, Any]:
    """How far the training has come; nothing before it is assembled."""
    if trainer is None:
        return {}
    progress = trainer.progress
    return {"steps": progress.step, "tokens": progress.tokens, "seconds": progress.seconds,
            "loss": _number(progress.loss), "loss_first": _number(progress.first_loss),
            "bits_per_byte": _bits_per_byte(trainer)}  # fmt: skip


class Results(Callback):
    """Measures what only a finished run knows."""

    def __init__(self, run: Run):
        self._run = run

    def on_end(self, summary: dict[str, Any]) -> None:
        """Add it to the summary. A collective, if the run has finished."""
        if summary["status"] != "failed":
            self._run.trainer.on_phase("end")
        if summary["status"] == "finished":
            summary |= results(self._run.trainer, self._run.config)


def results(trainer: Trainer, cfg: Config) -> dict[str, Any]:
    """What only a finished run knows. A collective."""
    progress, engine, comm = trainer.progress, trainer.engine, trainer.comm
    rows = _memory_of_ranks(trainer)
    stage0 = engine.memory_at(0)
    began = time.perf_counter()
    digest = engine.reader.sha256()
    log.info("hashed the weights in %.1f s", time.perf_counter() - began)
    later = progress.step > 1  # the first step compiles and allocates
    tokens = progress.tokens - later * trainer.tokens_per_step
    speed = tokens / max(progress.seconds - later * progress.first_seconds, 1e-9)
    return {
        "validation_loss": _number(progress.held_out_loss),
        "validation_accuracy": _number(progress.accuracy),
        "tokens_per_sec": speed,
        "tokens_per_sec_per_gpu": speed / comm.world,
        "max_allocated_gib": [row["total"] / GIB for row in rows],
        "memory": rows,
        "threads": [int(count) for (count,) in comm.gather_row([float(torch.get_num_threads())])],
        "stage0": {**stage0, "total": sum(stage0.values())},
        "weights_sha256": digest,
        "skipped_steps": int(engine.steps_skipped),
        "host_limits": trainer.waits.host_limits and _could_record(trainer, cfg),
        "sample": sample(trainer, cfg),
    }


def _could_record(trainer: Trainer, cfg: Config) -> bool:
    """Whether `train.cuda_graph=true` would be another run than this one, and allowed."""
    engine = trainer.engine
    return engine.device.type == "cuda" and not cfg.train.cuda_graph and can_record(cfg, engine)


def _memory_of_ranks(trainer: Trainer) -> list[dict[str, int]]:
    """Bytes by kind on every rank; `other` is what the peak holds beside the states. A collective."""
    memory = trainer.engine.memory()
    states = [memory[kind] for kind in STATES]
    total = max(trainer.peak_bytes(), sum(memory.values()) - memory["host"])
    table = trainer.comm.gather_row([*map(float, states), float(total - sum(states)), float(total)])
    return [dict(zip((*STATES, "other", "total"), map(int, row), strict=True)) for row in table]


def _bits_per_byte(trainer: Trainer) -> dict[str, float | None] | None:
    progress, per_token = trainer.progress, trainer.info.bytes_per_token
    if per_token is None:
        return None

    def bits(loss: float | None) -> float | None:
        return None if loss is None else _number(bits_per_byte(loss, per_token))

    return {"first": bits(progress.first_loss), "last": bits(progress.loss), "validation": bits(progress.held_out_loss)}


def _number(value: float | None) -> float | None:
    """`value` if JSON can hold it."""
    return value if value is not None and abs(value) < float("inf") else None
