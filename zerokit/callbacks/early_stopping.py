"""Early stopping: the run ends when evaluations no longer get better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from zerokit.callbacks._base import Callback, Run
from zerokit.config.errors import ConfigError, suggestion
from zerokit.config.registry import register


@dataclass
class EarlyStoppingOptions:
    """When evaluations no longer get better."""

    metric: str = "eval/loss"
    """Which figure of an evaluation's line of metrics decides."""
    mode: Literal["min", "max"] = "min"
    """Whether a smaller or a larger value is the better one."""
    patience: int = 3
    """Evaluations in a row that may be no better than the best before."""
    min_delta: float = 0.0
    """How much better, in units of the metric, a value must be to count."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}.")
        if not self.min_delta >= 0:
            raise ValueError(f"min_delta must be at least 0, got {self.min_delta}.")


@register("callbacks", "early_stopping", EarlyStoppingOptions)
class EarlyStopping(Callback):
    """Counts evaluations that are no better. The metrics are the same on every rank, so all stop at the same step."""

    def __init__(self, options: EarlyStoppingOptions, run: Run):
        self.options, self.run = options, run
        self.best: float | None = None
        self.worse = 0
        train = run.config.train
        if not train.eval_steps:
            raise ConfigError("callbacks=[early_stopping] needs evaluations on the way: set train.eval_every=STEPS.")

    def on_evaluate(self, step: int, metrics: dict[str, float]) -> None:
        """Compare, and stop the run if patience is at its end."""
        name = self.options.metric
        if name not in metrics:
            raise ConfigError(
                f"callbacks.early_stopping.metric: there is no metric '{name}'.{suggestion(name, metrics)} "
                f"Metrics: {', '.join(metrics)}."
            )
        if self._is_better(metrics[name]):
            self.best, self.worse = metrics[name], 0
            return
        self.worse += 1
        if self.worse >= self.options.patience:
            best = "none was a number" if self.best is None else f"the best was {self.best:.6g}"
            self.run.stop(f"{name} has not got better in {self.worse} evaluations; {best}")

    def _is_better(self, value: float) -> bool:
        if not abs(value) < float("inf"):
            return False
        if self.best is None:
            return True
        gain = self.best - value if self.options.mode == "min" else value - self.best
        return gain > self.options.min_delta

    def state(self) -> dict[str, Any]:
        """The best value, and for how many evaluations there was none."""
        return {"best": self.best, "worse": self.worse}

    def load_state(self, values: dict[str, Any]) -> None:
        """Count on."""
        self.best, self.worse = values["best"], values["worse"]
