"""Any scheduler of `torch.optim.lr_scheduler` that only counts steps, by the name of its class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zerokit.config.registry import register
from zerokit.scheduler._base import Schedule


@dataclass
class TorchOptions:
    """A class of torch.optim.lr_scheduler."""

    type: str = "StepLR"
    """Name of the class."""
    params: dict[str, Any] = field(default_factory=lambda: {"step_size": 100})
    """Keyword arguments of the class, but for the optimizer."""


@register("scheduler", "torch", TorchOptions)
def build(options: TorchOptions, total_steps: int, peak_lr: float) -> Schedule:
    """The learning rates that the class sets, and the momentum where it cycles that.

    Raises:
        ConfigError: there is no such class or argument, or it needs more than the number of the step.
    """
    from zerokit.scheduler._torch import TorchSchedule

    return TorchSchedule(options.type, options.params, peak_lr)
