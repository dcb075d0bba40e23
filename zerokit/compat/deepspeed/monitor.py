"""What a script's training shows: lines every so many steps, and Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zerokit.compat.deepspeed import comm
from zerokit.compat.deepspeed.log import tell
from zerokit.compat.deepspeed.parts import EngineParts
from zerokit.config import registry
from zerokit.config.schema import Config
from zerokit.tracker import RunInfo


class Monitor:
    """Looks at the engine after its steps, where somebody asked for it: reading numbers makes the host wait.

    every: steps between two lines; None or infinity for none.
    """

    def __init__(self, typed: Config, every: float | None, config: Mapping[str, Any]):
        self._every = None if every in (None, 0, float("inf")) else int(every)
        self._tracker: Any = None
        if typed.tracker.name != "none" and comm.get_rank() == 0:
            run = RunInfo(Path.cwd(), dict(config), typed.run.name, typed.run.group, tags=typed.run.tags)
            self._tracker = registry.build("tracker", typed.tracker, run=run)
        self._active = typed.tracker.name != "none" or self._every is not None
        self._losses: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Note the loss of a micro-batch (0-dim)."""
        if self._active:
            self._losses.append(loss)

    def report(self, engine: EngineParts) -> None:
        """Show the step that was just made."""
        losses, self._losses = self._losses, []
        step = engine.global_steps
        due = self._every is not None and step % self._every == 0
        if not due and self._tracker is None:
            return
        metrics = self._metrics(engine, losses)
        if self._tracker is not None:
            self._tracker.log(metrics, step)
        if due:
            shown = {"loss": "train/loss", "grad norm": "train/grad_norm", "lr": "optim/lr"}
            values = [f"{word} {metrics[name]:.4g}" for word, name in shown.items() if name in metrics]
            tell(f"step {step}: {', '.join(values)}, skipped {int(metrics['precision/skipped_steps'])}")

    @staticmethod
    def _metrics(engine: EngineParts, losses: list[Tensor]) -> dict[str, float]:
        metrics = {
            "train/grad_norm": engine.get_global_grad_norm(),
            "optim/lr": engine.get_lr()[0],
            "precision/skipped_steps": float(engine.skipped_steps),
            "trainer/samples": float(engine.global_samples),
        }
        if losses:
            metrics["train/loss"] = sum(float(loss) for loss in losses) / len(losses)
        if engine.fp16_enabled():
            metrics["precision/loss_scale"] = engine.loss_scale
        return metrics

    def finish(self, engine: EngineParts) -> None:
        """Close the tracker's run."""
        if self._tracker is not None:
            self._tracker.finish({"steps": engine.global_steps, "status": "finished"})
            self._tracker = None
