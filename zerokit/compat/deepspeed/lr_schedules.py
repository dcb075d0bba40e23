"""DeepSpeed's five schedulers as objects that set the parameter groups of an optimizer, and any of torch's by name.

The rates are those of zerokit's schedules of the same parameters (`zerokit.scheduler`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zerokit.compat.deepspeed.errors import MisuseError
from zerokit.config import registry
from zerokit.config.errors import ConfigError
from zerokit.config.parse import parse_fields
from zerokit.config.registry import Choice

LR_RANGE_TEST, ONE_CYCLE = "LRRangeTest", "OneCycle"
WARMUP_LR, WARMUP_DECAY_LR, WARMUP_COSINE_LR = "WarmupLR", "WarmupDecayLR", "WarmupCosineLR"
VALID_LR_SCHEDULES = [LR_RANGE_TEST, ONE_CYCLE, WARMUP_LR, WARMUP_DECAY_LR, WARMUP_COSINE_LR]
Rate = float | Sequence[float]
"""One for all parameter groups, or one for each."""
ATTRIBUTES = {
    "warmup_min_lr": "min_lrs",
    "warmup_max_lr": "max_lrs",
    "cycle_min_lr": "min_lrs",
    "cycle_max_lr": "max_lrs",
    "cycle_first_step_size": "first_step_size",
    "cycle_second_step_size": "second_step_size",
    "cycle_first_stair_count": "first_stair_count",
    "cycle_second_stair_count": "second_stair_count",
    "lr_range_test_min_lr": "min_lr",
    "lr_range_test_step_size": "step_size",
    "lr_range_test_step_rate": "step_rate",
    "lr_range_test_staircase": "staircase",
}
"""DeepSpeed's fields, where they have other names than the parameters."""
LISTED = ("min_lr", "min_lrs", "max_lrs")
"""Fields that have a value for each parameter group."""


class Scheduler:
    """Sets learning rates, and OneCycle's momentum, for the step after `last_batch_iteration`, which `step` raises.

    kind: zerokit's schedule. Parameters that are lists have a value for every parameter group.

    Raises:
        ConfigError: a value is wrong, or a list has not as many values as there are groups.
    """

    kind = ""

    def __init__(self, optimizer: torch.optim.Optimizer, last_batch_iteration: int = -1, **params: Any):
        self.optimizer = getattr(optimizer, "optimizer", optimizer)
        self.last_batch_iteration = last_batch_iteration
        groups = self.optimizer.param_groups
        own = [_of_group(params, index, len(groups)) for index in range(len(groups))]
        self._schedules = [self._schedule(float(g["lr"]), values) for g, values in zip(groups, own, strict=True)]
        self._last_lr: list[float] | None = None
        for key, value in params.items():
            setattr(self, ATTRIBUTES.get(key, key), self._as_kept(ATTRIBUTES.get(key, key), value))
        if last_batch_iteration == -1:
            self._set()

    def _as_kept(self, name: str, value: Any) -> Any:
        """A parameter as scripts find it: rates as one for each group."""
        if name not in LISTED:
            return value
        groups = self.optimizer.param_groups
        if value is None:
            return [float(group["lr"]) for group in groups]
        return list(value) if isinstance(value, list | tuple) else [value] * len(groups)

    def _schedule(self, lr: float, params: Mapping[str, Any]) -> Any:
        options = parse_fields(registry.options_type("scheduler", self.kind), dict(params), "scheduler.params")
        steps = params.get("total_num_steps") or 1  # what counts as the run's length where nothing else says
        return registry.build("scheduler", Choice(self.kind, options), total_steps=steps, peak_lr=lr)

    def _rates(self) -> list[Any]:
        return [schedule(self.last_batch_iteration + 1) for schedule in self._schedules]

    def get_lr(self) -> list[float]:
        """Learning rates of the next step."""
        return [rates.lr for rates in self._rates()]

    def get_last_lr(self) -> list[float]:
        """Learning rates that were set last.

        Raises:
            MisuseError: none was, as the schedule began in the middle.
        """
        if self._last_lr is None:
            raise MisuseError("get_last_lr() of a schedule that began in the middle: call step() first.")
        return self._last_lr

    def get_mom(self) -> list[Any] | None:
        """Betas of the next step; None where the schedule moves no momentum."""
        rates = self._rates()
        if rates[0].momentum is None:
            return None
        return [(rate.momentum, group["betas"][1]) for rate, group in zip(rates, self._with_betas(), strict=True)]

    def _with_betas(self) -> list[dict[str, Any]]:
        return [{"betas": (0.0, 0.99), **group} for group in self.optimizer.param_groups]

    def _set(self) -> None:
        rates = self._rates()
        self._last_lr = [rate.lr for rate in rates]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate.lr)
            else:
                group["lr"] = rate.lr
            if rate.momentum is not None and "betas" in group:
                group["betas"] = (rate.momentum, group["betas"][1])

    def step(self, last_batch_iteration: int | None = None) -> None:
        """A step has been made: set the learning rates of the next."""
        later = self.last_batch_iteration + 1 if last_batch_iteration is None else last_batch_iteration
        self.last_batch_iteration = later
        self._set()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"last_batch_iteration": self.last_batch_iteration}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.last_batch_iteration = state["last_batch_iteration"]
        self._set()


def _of_group(params: Mapping[str, Any], index: int, count: int) -> dict[str, Any]:
    """The parameters of one group."""
    own = {}
    for key, value in params.items():
        if isinstance(value, list | tuple):
            if len(value) != count:
                raise ConfigError(f"{key} has {len(value)} values for {count} parameter groups.")
            value = value[index]
        own[key] = value
    return own


class LRRangeTest(Scheduler):
    """A rate that grows in a straight line, or in stairs."""

    kind = "lr_range_test"

    def __init__(self, optimizer: Any, lr_range_test_min_lr: Rate = 1e-3, lr_range_test_step_size: int = 2000,
                 lr_range_test_step_rate: float = 1.0, lr_range_test_staircase: bool = False,
                 last_batch_iteration: int = -1):  # fmt: skip
        super().__init__(**_arguments(locals()))


class OneCycle(Scheduler):
    """A rate that rises and falls while the momentum falls and rises, then decays. The second beta stays."""

    kind = "one_cycle"

    def __init__(self, optimizer: Any, cycle_min_lr: Rate, cycle_max_lr: Rate, decay_lr_rate: float = 0.0,
                 cycle_first_step_size: int = 2000, cycle_second_step_size: int | None = None,
                 cycle_first_stair_count: int = 0, cycle_second_stair_count: int | None = None,
                 decay_step_size: int = 0, cycle_momentum: bool = True, cycle_min_mom: float = 0.8,
                 cycle_max_mom: float = 0.9, decay_mom_rate: float = 0.0, last_batch_iteration: int = -1):  # fmt: skip
        super().__init__(**_arguments(locals()))


class WarmupLR(Scheduler):
    """From the smallest to the largest rate, along a logarithm or a line, and then constant."""

    kind = "warmup"

    def __init__(self, optimizer: Any, warmup_min_lr: Rate = 0.0, warmup_max_lr: Rate | None = None,
                 warmup_num_steps: int = 1000, warmup_type: str = "log", last_batch_iteration: int = -1):  # fmt: skip
        super().__init__(**_arguments(locals()))


class WarmupDecayLR(Scheduler):
    """A warm-up, then along a line down to `total_num_steps`."""

    kind = "warmup_decay"

    def __init__(self, optimizer: Any, total_num_steps: int, warmup_min_lr: Rate = 0.0, warmup_max_lr: Rate = 0.001,
                 warmup_num_steps: int = 1000, warmup_type: str = "log", last_batch_iteration: int = -1):  # fmt: skip
        super().__init__(**_arguments(locals()))


class WarmupCosineLR(Scheduler):
    """From a share of the optimizer's rate to the whole, then along half a cosine to another share."""

    kind = "warmup_cosine"

    def __init__(self, optimizer: Any, total_num_steps: int, warmup_min_ratio: float = 0.0,
                 warmup_num_steps: int = 1000, cos_min_ratio: float = 0.0001, warmup_type: str = "log",
                 last_batch_iteration: int = -1):  # fmt: skip
        super().__init__(**_arguments(locals()))


def _arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("self", "__class__")}


def from_json(optimizer: Any, section: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
    """The scheduler of a JSON's section; `params` are its own with every "auto" resolved.

    Raises:
        ConfigError: a parameter has a wrong value.
    """
    name = section["type"]
    kind = globals()[name] if name in VALID_LR_SCHEDULES else getattr(torch.optim.lr_scheduler, name)
    try:
        return kind(optimizer, **params)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"scheduler.params of {name}: {error}") from error
