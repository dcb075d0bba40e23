"""Values of a scheduler of `torch.optim.lr_scheduler`, read from an optimizer with a parameter that nobody uses."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler

from zerokit.config.errors import ConfigError, suggestion
from zerokit.scheduler._base import Rates

REFUSED = {
    "LambdaLR": "takes a function, which a configuration cannot hold",
    "MultiplicativeLR": "takes a function, which a configuration cannot hold",
    "SequentialLR": "takes other schedulers",
    "ChainedScheduler": "takes other schedulers",
    "ReduceLROnPlateau": "waits for a metric",
    "LRScheduler": "is the base of the others",
}


class TorchSchedule:
    """Steps the scheduler as far as it is asked for and remembers its values: they depend on the step alone.

    Raises:
        ConfigError: the class does not exist, needs more than a step, or does not take these arguments.
    """

    def __init__(self, name: str, params: Mapping[str, Any], peak_lr: float):
        kind = _class_of(name)
        allowed = [
            key for key in inspect.signature(kind).parameters if key not in ("optimizer", "last_epoch", "verbose")
        ]
        for key in params:
            if key not in allowed:
                raise ConfigError(
                    f"scheduler.params.{key}: {name} has no such argument."
                    f"{suggestion(key, allowed, 'scheduler.params.')} Arguments: {', '.join(allowed)}."
                )
        self._optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak_lr, momentum=0.9)
        try:
            self._scheduler = kind(self._optimizer, **params)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"scheduler.type={name}: {error}") from error
        self._name, self._momentum = name, bool(getattr(self._scheduler, "cycle_momentum", False))
        self._seen = [self._rates()]

    def _rates(self) -> Rates:
        group = self._optimizer.param_groups[0]
        return Rates(float(group["lr"]), float(group["momentum"]) if self._momentum else None)

    def __call__(self, step: int) -> Rates:
        """The rates of a step, from 0."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimizer is never stepped
            while len(self._seen) <= step:
                try:
                    self._scheduler.step()
                except ValueError as error:
                    raise ConfigError(f"scheduler.type={self._name}, step {len(self._seen)}: {error}") from error
                self._seen.append(self._rates())
        return self._seen[step]


def _class_of(name: str) -> type:
    names = [key for key in lr_scheduler.__all__ if key not in REFUSED]
    if name in REFUSED:
        raise ConfigError(f"scheduler.type={name} {REFUSED[name]}. Choose one of {', '.join(names)}.")
    if name not in names:
        raise ConfigError(
            f"scheduler.type={name}: torch.optim.lr_scheduler has no such class."
            f"{suggestion(name, names, 'scheduler.type=')} Classes: {', '.join(names)}."
        )
    return getattr(lr_scheduler, name)
