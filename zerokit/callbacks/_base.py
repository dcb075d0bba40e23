"""What a callback offers, and the run that it is told of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zerokit.config.schema import Config


@dataclass
class Run:
    """A run as its callbacks see it; every rank has its own.

    config: of the run. folder: its output folder, which only rank 0 writes to. rank, world: which process of how many.
    summary: what summary.json will say; a callback of rank 0 may add to it. trainer: a `zerokit.train.trainer.Trainer`
    with `engine`, `progress`, `info` and `comm`; None until it is assembled. resumed: the saved state that
    the run goes on from. tracked: the tracker's name and its id of the run, which saved states keep.
    """

    config: Config
    folder: Path
    rank: int
    world: int
    summary: dict[str, Any]
    trainer: Any = None
    resumed: Path | None = None
    tracked: dict[str, Any] = field(default_factory=dict)

    def stop(self, why: str) -> None:
        """End the training after this step, as finished; summary.json says why as `stopped`. Every rank must call it at
        the same step, which comes by itself where the decision follows from metrics."""
        self.summary["stopped"] = why

    @property
    def stopped(self) -> bool:
        """Whether the training ends after this step."""
        return "stopped" in self.summary


class Callback:
    """What a run calls while it trains; a subclass overrides what it needs.

    Registered in the group `callbacks`, and built on every rank as `builder(options, run=Run)` once the model is
    assembled. Every rank calls every method, in the main thread, in the order in which the configuration names the
    callbacks (`on_end` in reverse), so collectives are allowed except where it says otherwise. What rank 0 alone is to
    do asks `run.rank == 0`. zerokit's own stand around them: see `zerokit.train.callbacks`.
    """

    def on_start(self) -> None:
        """The training begins, or goes on: `run.trainer.progress.step` steps are done."""

    def on_step(self, step: int, metrics: dict[str, float] | None) -> None:
        """A step (from 1) is done. metrics: every `train.log_every` steps and after an evaluation, the same on every
        rank but for what a rank alone has measured; reading anything else of the device makes the host wait for it."""

    def on_evaluate(self, step: int, metrics: dict[str, float]) -> None:
        """An evaluation is among the metrics, under `eval/`; called before `on_step`."""

    def on_save(self, step: int, path: Path) -> None:
        """The state after `step` steps is on the disk. Ranks hear of it at different steps: no collectives here."""

    def on_end(self, summary: dict[str, Any]) -> None:
        """The run is over, and `summary["status"]` says how: finished, interrupted or failed. After a failure there are
        no collectives, nor is it certain that every rank gets here. What raises here is called again with that."""

    def state(self) -> dict[str, Any]:
        """What a saved state has to keep of the callback, as plain JSON values; those of rank 0 are kept."""
        return {}

    def load_state(self, values: dict[str, Any]) -> None:
        """Take `state` of a run that this one goes on from; called on every rank before `on_start`."""
