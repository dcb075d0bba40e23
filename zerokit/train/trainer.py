"""The training loop: micro-batches, steps, and what is measured on the way. Knows no config group and no stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from zerokit.train.loader import Loader
from zerokit.train.memory import MemoryMeter
from zerokit.train.metrics import GIB, bits_per_byte
from zerokit.train.peak import find_peak
from zerokit.train.waits import Waits
from zerokit.zero.engine import Engine
from zerokit.zero.graph import CapturedStep

KERNELS = 40
"""Of a unit's forward and backward pass and update: 32 to 38 are counted for decoders (`zerokit.estimate`)."""


@dataclass
class Progress:
    """What one `fit` has done so far.

    step: optimizer steps. samples: seen by all ranks; tokens: those in them (samples, where data has no tokens).
    seconds: of training, without evaluation; first_seconds: of the first step alone, which compiles and allocates.
    logged: step of the last line of metrics. loss: mean over the steps since the line before; first_loss: that of the
    first step.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    logged: int = 0
    seconds: float = 0.0
    first_seconds: float = 0.0
    loss: float | None = None
    first_loss: float | None = None
    held_out_loss: float | None = None
    tokens_per_sec: float | None = None


class _Stopwatch:
    """Time of training since the last reading; evaluation and logging are paused out."""

    def __init__(self) -> None:
        self.seconds = self.data = 0.0
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._since

    def reset(self) -> None:
        self.seconds = self.data = 0.0


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of the block; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    yield
    for module, training in modes:
        module.training = training


def peak_of(engine: Engine) -> float | None:
    """TFLOP/s of the engine's device in its compute format; None where `zerokit.train.peak` has no entry."""
    if engine.device.type != "cuda":
        return None
    peak = find_peak(torch.cuda.get_device_name(engine.device))
    tf32 = torch.get_float32_matmul_precision() != "highest"
    return None if peak is None else peak.of(str(engine.numerics.compute).removeprefix("torch."), tf32)


class Trainer:
    """Runs the steps of a training and reports metrics by their names (see the README).

    Args:
        engine: the model and its state. schedule: rates of a step.
        loader: micro-batches of this rank. loss: inputs, targets → mean loss of a micro-batch (0-dim).
        batch: samples per step. options: steps, log_every, eval_every, eval_batches.
    """

    def __init__(self, engine: Engine, schedule: Callable[[int], Any], loader: Loader,
                 loss: Callable[[Tensor, Tensor], Tensor], batch: Any, options: Any):  # fmt: skip
        self.engine, self.schedule, self.loader, self.loss, self.batch, self.options = (
            engine, schedule, loader, loss, batch, options)  # fmt: skip
        self.comm, self.info = engine.comm, loader.source.info
        self.lr = engine.lr
        self.meter = MemoryMeter(engine.device)
        self.progress = Progress()
        self.tokens_per_step = batch.global_ * (self.info.seq_len or 1)
        flops = getattr(engine.module, "flops_per_token", None)
        self.flops_per_token = flops(self.info.seq_len) if flops else None
        self.peak_tflops = options.peak_tflops or peak_of(engine)
        self._loss_sum = torch.zeros((), dtype=torch.float32, device=engine.device)  # since the last measurement
        self.on_phase: Callable[..., None] = lambda name, steps=0: None  # told when something else than a step begins
        self._run = CapturedStep(engine, self._whole_step) if options.cuda_graph else self._whole_step
        self.waits = Waits(KERNELS * len(engine.units) * batch.accumulation)

    def fit(self) -> Iterator[tuple[int, dict[str, float] | None]]:
        """Train; yields after every step its number (from 1) and, where they are due, the metrics.

        Raises:
            FloatingPointError: too many steps in a row were skipped.
        """
        batches = self.loader.from_sample(self.progress.samples)
        watch, timed = _Stopwatch(), self.progress.step
        for step in range(self.progress.step, self.options.steps):
            watch.start()
            self._step(step, batches, watch)
            self._count(step + 1)
            last = step + 1 == self.options.steps
            due = step == 0 or (step + 1) % self.options.log_every == 0
            evaluate = last or (self.options.eval_every and (step + 1) % self.options.eval_every == 0)
            metrics = None
            if due or evaluate:
                self.on_phase("measure", step + 1 - timed)
                metrics = self._measure(watch, step + 1 - timed)
                self.progress.logged = timed = step + 1
                self.engine.check()
            watch.stop()
            if metrics is not None:
                self.progress.seconds += watch.seconds
                if step == 0:
                    self.progress.first_seconds = watch.seconds
                watch.reset()
                if evaluate:
                    self.on_phase("evaluate")
                    metrics |= self.evaluate()
            yield step + 1, metrics

    def _count(self, step: int) -> None:
        progress = self.progress
        progress.step, progress.tokens = step, progress.tokens + self.tokens_per_step
        progress.samples += self.batch.global_

    # -- state -------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """How far the training is, as plain JSON values; see `load_state`."""
        values = asdict(self.progress)
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}

    def load_state(self, values: dict[str, Any]) -> None:
        """Go on from a state: the next `fit` starts with the sample and the step after those of `values`."""
        known = {f.name for f in fields(Progress)}
        self.progress = Progress(**{key: value for key, value in values.items() if key in known})

    def tensors(self) -> dict[str, Tensor]:
        """What else a state needs of this rank."""
        return {"loss_sum": self._loss_sum}

    # -- steps -------------------------------------------------------------------------------------------------------

    def _step(self, step: int, batches: Iterator, watch: _Stopwatch) -> None:
        self.lr, momentum = self.schedule(step)
        self.engine.set_lr(self.lr)
        if momentum is not None:
            self.engine.set_momentum(momentum)
        began = time.perf_counter()
        micro_batches = [next(batches) for _ in range(self.batch.accumulation)]
        watch.data += time.perf_counter() - began
        self._loss_sum += self._run(micro_batches)

    def _whole_step(self, micro_batches: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """Forward and backward of every micro-batch and the update; the mean loss (0-dim)."""
        total = torch.zeros((), dtype=torch.float32, device=self.engine.device)
        for inputs, targets in micro_batches:
            loss = self.loss(inputs, targets)
            self.engine.backward(loss)
            total += loss.detach().float()
        self.engine.step()
        return total / len(micro_batches)

    # -- metrics -----------------------------------------------------------------------------------------------------

    def _measure(self, watch: _Stopwatch, steps: int) -> dict[str, float]:
        """Metrics since the line before; `watch` has timed `steps` steps. The host waits for the device."""
        loss = self._loss_sum / (self.progress.step - self.progress.logged)
        self._loss_sum.zero_()
        began = time.perf_counter()
        rows = self.comm.gather_row(
            [loss, float(self.peak_bytes()), float(self.meter.reserved() + self.comm.shared_bytes), self.waits.last]
        )
        waited = time.perf_counter() - began
        watch.stop()
        seconds = max(watch.seconds, 1e-9) / steps
        data = watch.data / max(watch.seconds, 1e-9)
        self.waits.note([row[3] for row in rows])
        self.waits.measure(waited, seconds, steps, data)
        watch.start()
        mean = sum(row[0] for row in rows) / len(rows)
        progress, engine = self.progress, self.engine
        progress.loss = mean
        progress.first_loss = mean if progress.first_loss is None else progress.first_loss
        progress.tokens_per_sec = self.tokens_per_step / seconds
        metrics = {
            "trainer/tokens": progress.tokens,
            "trainer/epoch": progress.samples / len(self.loader.source),
            "train/loss": mean,
            **self._bits("train", mean),
            "train/grad_norm": float(engine.grad_norm),
            "optim/lr": self.lr,
            **self._speed(seconds),
            "time/data_pct": 100 * data,
            "memory/max_allocated_gib": max(row[1] for row in rows) / GIB,
            "memory/min_allocated_gib": min(row[1] for row in rows) / GIB,
            "memory/max_reserved_gib": max(row[2] for row in rows) / GIB,
            "precision/skipped_steps": float(engine.steps_skipped),
        }
        if engine.numerics.scaler is not None:
            metrics["precision/loss_scale"] = float(engine.numerics.scaler.scale)
        return metrics

    def peak_bytes(self) -> int:
        """Most memory this rank has used, peer memory included."""
        return self.meter.peak() + self.comm.shared_bytes

    def _speed(self, seconds: float) -> dict[str, float]:
        """MFU in percent is 100 · tokens/s per GPU · FLOPs per token / peak; the model counts its FLOPs per token."""
        per_second = self.tokens_per_step / seconds
        speed = {
            "perf/step_time_s": seconds,
            "perf/tokens_per_sec": per_second,
            "perf/tokens_per_sec_per_gpu": per_second / self.comm.world,
        }
        if self.flops_per_token is not None:
            reached = per_second / self.comm.world * self.flops_per_token / 1e12
            speed["perf/tflops_per_gpu"] = reached
            if self.peak_tflops is not None:
                speed["perf/mfu_pct"] = 100 * reached / self.peak_tflops
        return speed

    def _bits(self, prefix: str, loss: float) -> dict[str, float]:
        per_token = self.info.bytes_per_token
        return {} if per_token is None else {f"{prefix}/bits_per_byte": bits_per_byte(loss, per_token)}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean loss over held-out samples; empty where there are none."""
        with evaluating(self.engine.module), self.engine.evaluating():
            batches = self.loader.held_out(self.options.eval_batches)
            losses = [self.loss(inputs, targets).float() for inputs, targets in batches]
        if not losses:
            return {}
        rows = self.comm.gather_row([torch.stack(losses).mean()])
        mean = sum(row[0] for row in rows) / len(rows)
        self.progress.held_out_loss = mean
        return {"eval/loss": mean, **self._bits("eval", mean)}
