"""Weights & Biases: offline unless a key is present, and never in the way of the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from zerokit.config.registry import register
from zerokit.tracker._base import RunInfo


@dataclass
class WandbOptions:
    """Where the run goes and how long W&B may keep the training waiting."""

    project: str | None = None
    """Project of the run; null takes $WANDB_PROJECT, or zerokit."""
    entity: str | None = None
    """User or team that owns the project; null takes the default of the account."""
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto takes $WANDB_MODE if set, else online if a key is present, else offline."""
    init_timeout: float = 2.5
    """Seconds to wait for the server at the start; after that the run is recorded offline."""
    finish_timeout: float = 4.0
    """Seconds to wait for uploads at the end; what is left stays on disk for `wandb sync`."""

    def __post_init__(self) -> None:
        for key, value in (("init_timeout", self.init_timeout), ("finish_timeout", self.finish_timeout)):
            if not value > 0:
                raise ValueError(f"{key} must be above 0 seconds, got {value}.")


@register("tracker", "wandb", WandbOptions)
def build(options: WandbOptions, run: RunInfo) -> Any:
    """Start a W&B run in `run.directory`/wandb and return its tracker."""
    from zerokit.tracker._wandb import WandbTracker

    return WandbTracker(options, run)
