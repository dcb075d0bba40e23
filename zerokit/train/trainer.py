"""The training loop: micro-batches, steps, and what is measured on the way. Knows no config group and no stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from zerokit.record.hardware import find_peak
from zerokit.record.metrics import GIB, bits_per_byte
from zerokit.train.loader import Batch, Loader
from zerokit.train.memory import MemoryMeter
from zerokit.train.objective import Objective, weighted
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
    loss: mean since the line of metrics before; first_loss: that of the first step.
    held_out_loss, accuracy: of the last evaluation.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    first_seconds: float = 0.0
    loss: float | None = None
    first_loss: float | None = None
    held_out_loss: float | None = None
    accuracy: float | None = None
    tokens_per_sec: float | None = None


class _Stopwatch:
    """Time and steps of training since the last reading; evaluation and logging are paused out."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.seconds = self.data = 0.0
        self.steps = 0

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._since


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the time of the block; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def peak_of(engine: Engine) -> float | None:
    """TFLOP/s of the engine's device in its compute format; None where `zerokit.record.hardware` has no entry."""
    if engine.device.type != "cuda":
        return None
    peak = find_peak(torch.cuda.get_device_name(engine.device))
    tf32 = torch.get_float32_matmul_precision() != "highest"
    return None if peak is None else peak.of(str(engine.numerics.compute).removeprefix("torch."), tf32)


class Trainer:
    """Runs the steps of a training and reports metrics by their names (docs/reference/metrics.md).

    Args:
        engine: the model and its state. schedule: rates of a step.
        loader: micro-batches of this rank. objective: their loss. batch: samples per step.
        options: steps, log_every, eval_every, eval_samples, eval_batches.
    """

    def __init__(self, engine: Engine, schedule: Callable[[int], Any], loader: Loader,
                 objective: Objective, batch: Any, options: Any):  # fmt: skip
        self.engine, self.schedule, self.loader, self.objective, self.batch, self.options = (
            engine, schedule, loader, objective, batch, options)  # fmt: skip
        self.comm, self.info = engine.comm, loader.source.info
        self.lr = engine.lr
        self.meter = MemoryMeter(engine.device)
        self.progress = Progress()
        self.tokens_per_step = batch.global_ * self.info.sample_tokens
        flops = getattr(engine.module, "flops_per_token", None)
        self.flops_per_token = flops(self.info.seq_len) if flops else None
        self.peak_tflops = options.peak_tflops or peak_of(engine)
        self._losses = torch.zeros(2, dtype=torch.float64, device=engine.device)  # weighted, since the last measurement
        self.on_phase: Callable[..., None] = lambda name, steps=0: None  # told when something else than a step begins
        self._run = CapturedStep(engine, self._whole_step) if options.cuda_graph else self._whole_step
        self.waits = Waits(KERNELS * len(engine.units) * batch.accumulation)

    def fit(self) -> Iterator[tuple[int, dict[str, float] | None]]:
        """Train; yields after every step its number (from 1) and, where they are due, the metrics.

        Raises:
            FloatingPointError: too many steps in a row were skipped.
        """
        batches, watch = self.loader.from_sample(self.progress.samples), _Stopwatch()
        for step in range(self.progress.step, self.options.steps):
            watch.start()
            self._step(step, batches, watch)
            self._count(step + 1)
            yield step + 1, self._line(step + 1, watch)

    def _line(self, step: int, watch: _Stopwatch) -> dict[str, float] | None:
        """The metrics after a step where they are due, and those of an evaluation; stops the watch."""
        every, evaluate = self.options.eval_steps, step == self.options.steps
        evaluate = evaluate or (every > 0 and step % every == 0 and self.eval_samples > 0)
        if not (evaluate or step == 1 or step % self.options.log_steps == 0):
            watch.stop()
            return None
        self.on_phase("measure", watch.steps)
        metrics = self._measure(watch, watch.steps)
        self.engine.check()
        watch.stop()
        self.progress.seconds += watch.seconds
        if step == 1:
            self.progress.first_seconds = watch.seconds
        watch.reset()
        if evaluate:
            self.on_phase("evaluate")
            metrics |= self.evaluate()
        return metrics

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
        return {"losses": self._losses}

    # -- steps -------------------------------------------------------------------------------------------------------

    def _step(self, step: int, batches: Iterator, watch: _Stopwatch) -> None:
        self.lr, momentum = self.schedule(step)
        self.engine.set_lr(self.lr)
        if momentum is not None:
            self.engine.set_momentum(momentum)
        began = time.perf_counter()
        micro_batches = [next(batches) for _ in range(self.batch.accumulation)]
        watch.data += time.perf_counter() - began
        self._losses += self._run(micro_batches)
        watch.steps += 1

    def _whole_step(self, micro_batches: Sequence[Batch]) -> Tensor:
        """Forward and backward of every micro-batch and the update; this rank's sum of `weighted` losses."""
        losses = torch.zeros_like(self._losses)
        for inputs, targets in micro_batches:
            loss, tokens = self.objective(inputs, targets)
            self.engine.backward(loss, tokens=tokens)
            losses += weighted(loss, 1.0 if tokens is None else tokens)
        self.engine.step()
        return losses

    # -- metrics -----------------------------------------------------------------------------------------------------

    def _measure(self, watch: _Stopwatch, steps: int) -> dict[str, float]:
        """Metrics since the line before; `watch` has timed `steps` steps. The host waits for the device."""
        losses = self._losses.clone()
        self._losses.zero_()
        began = time.perf_counter()
        memory = float(self.peak_bytes()), float(self.meter.reserved() + self.comm.shared_bytes)
        rows = self.comm.gather_row([*losses, *memory, self.waits.last])
        waited = time.perf_counter() - began
        watch.stop()
        seconds = max(watch.seconds, 1e-9) / steps
        data = watch.data / max(watch.seconds, 1e-9)
        self.waits.note([row[4] for row in rows])
        self.waits.measure(waited, seconds, steps, data)
        watch.start()
        mean = _mean(rows)
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
            "memory/max_allocated_gib": max(row[2] for row in rows) / GIB,
            "memory/min_allocated_gib": min(row[2] for row in rows) / GIB,
            "memory/max_reserved_gib": max(row[3] for row in rows) / GIB,
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

    @property
    def eval_samples(self) -> int:
        """Held-out samples of an evaluation, over all ranks."""
        batches = self.options.eval_batches
        return self.options.eval_samples if batches is None else batches * self.batch.micro * self.comm.world

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean loss over the targets of the held-out samples, and what follows from it; empty where there are none."""
        with evaluating(self.engine.module), self.engine.evaluating():
            scores = [self._score(*part) for part in self.loader.held_out(self.eval_samples)]
        if not scores:
            return {}
        rows = self.comm.gather_row([*torch.stack(scores).sum(0)])
        mean = _mean(rows)
        self.progress.held_out_loss = mean
        metrics = {"eval/loss": mean, **self._bits("eval", mean)}
        if self.info.counted == "tokens":
            metrics["eval/perplexity"] = math.exp(min(mean, 700.0))  # the largest that a float holds
        if self.objective.scores:
            metrics["eval/accuracy"] = self.progress.accuracy = _mean(rows, of=2)
        return metrics

    def _score(self, batch: Batch, counts: bool) -> Tensor:
        """The weighted loss of held-out samples and how many targets are predicted (3,), or zeros if they do not count.

        Compiled code keeps to the shape of a training step: for others it would be made anew, and slower for all.
        """
        whole = len(batch[1]) == self.batch.micro
        with nullcontext() if whole else torch.compiler.set_stance("force_eager"):
            loss, count, right = self.objective.scored(*batch)
        return torch.cat((weighted(loss, count * counts), (right * counts + torch.zeros_like(loss.double())).view(1)))


def _mean(rows: list[list[float]], of: int = 0) -> float:
    """The mean of a sum, number `of` in the ranks' rows; the weights are number 1. NaN where nothing counted."""
    weight = sum(row[1] for row in rows)
    return sum(row[of] for row in rows) / weight if weight else math.nan
