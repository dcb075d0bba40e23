"""DeepSpeed's five schedulers as objects that set the parameter groups of an optimizer, and any of torch's by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from zerokit.config.errors import ConfigError, suggestion

LR_RANGE_TEST, ONE_CYCLE = "LRRangeTest", "OneCycle"
WARMUP_LR, WARMUP_DECAY_LR, WARMUP_COSINE_LR = "WarmupLR", "WarmupDecayLR", "WarmupCosineLR"
VALID_LR_SCHEDULES = [LR_RANGE_TEST, ONE_CYCLE, WARMUP_LR, WARMUP_DECAY_LR, WARMUP_COSINE_LR]


class Schedule:
    """What the schedulers share: learning rates follow from `last_batch_iteration`, which `step` raises.

    Like DeepSpeed's, it starts at -1, before which the first rates are set: those of `at(0)` where `starts_low`, else
    as `first` says.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, last_batch_iteration: int = -1):
        self.optimizer = getattr(optimizer, "optimizer", optimizer)
        self.last_batch_iteration = last_batch_iteration
        if last_batch_iteration == -1:
            self._set(self.first())

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups."""
        return self.optimizer.param_groups

    def each(self, value: float | Sequence[float], name: str) -> list[float]:
        """A value for every parameter group, from one or a list of as many."""
        if not isinstance(value, list | tuple):
            return [value] * len(self.groups)
        if len(value) != len(self.groups):
            raise ValueError(f"{name} has {len(value)} values for {len(self.groups)} parameter groups.")
        return list(value)

    def first(self) -> list[float]:
        """Learning rates of the first step."""
        raise NotImplementedError

    def get_lr(self) -> list[float]:
        """Learning rates at `last_batch_iteration`."""
        raise NotImplementedError

    def get_last_lr(self) -> list[float]:
        """Learning rates that were set last."""
        return self._last_lr

    def _set(self, rates: Sequence[float]) -> None:
        self._last_lr = list(rates)
        for group, rate in zip(self.groups, rates, strict=True):
            group["lr"] = rate

    def step(self, last_batch_iteration: int | None = None) -> None:
        """A step has been made: set the learning rates of the next."""
        self.last_batch_iteration = (
            self.last_batch_iteration + 1 if last_batch_iteration is None else last_batch_iteration
        )
        self._set(self.get_lr())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"last_batch_iteration": self.last_batch_iteration}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.last_batch_iteration = state["last_batch_iteration"]
        self._set(self.first() if self.last_batch_iteration < 0 else self.get_lr())


class LRRangeTest(Schedule):
    """A rate that grows in a straight line, or in stairs: Smith, arXiv 1803.09820, section 4.1."""

    def __init__(self, optimizer: Any, lr_range_test_min_lr: float | Sequence[float] = 1e-3,
                 lr_range_test_step_size: int = 2000, lr_range_test_step_rate: float = 1.0,
                 lr_range_test_staircase: bool = False, last_batch_iteration: int = -1):  # fmt: skip
        _positive(lr_range_test_step_size=lr_range_test_step_size)
        self._min, self._size = lr_range_test_min_lr, lr_range_test_step_size
        self._rate, self._stairs = lr_range_test_step_rate, lr_range_test_staircase
        super().__init__(optimizer, last_batch_iteration)

    def first(self) -> list[float]:
        """The smallest rate."""
        return self.each(self._min, "lr_range_test_min_lr")

    def get_lr(self) -> list[float]:
        """min · (1 + rate · interval)."""
        interval = (self.last_batch_iteration + 1) / self._size
        factor = 1 + self._rate * (math.floor(interval) if self._stairs else interval)
        return [low * factor for low in self.first()]


class OneCycle(Schedule):
    """A rate that rises and falls once while the momentum falls and rises, then decays: Smith, section 4.2."""

    def __init__(self, optimizer: Any, cycle_min_lr: float | Sequence[float], cycle_max_lr: float | Sequence[float],
                 decay_lr_rate: float = 0.0, cycle_first_step_size: int = 2000,
                 cycle_second_step_size: int | None = None, cycle_first_stair_count: int = 0,
                 cycle_second_stair_count: int | None = None, decay_step_size: int = 0, cycle_momentum: bool = True,
                 cycle_min_mom: float = 0.8, cycle_max_mom: float = 0.9, decay_mom_rate: float = 0.0,
                 last_batch_iteration: int = -1):  # fmt: skip
        _positive(cycle_first_step_size=cycle_first_step_size)
        second = cycle_first_step_size if cycle_second_step_size is None else cycle_second_step_size
        stairs = cycle_first_stair_count if cycle_second_stair_count is None else cycle_second_stair_count
        self._lrs, self._moms = (cycle_min_lr, cycle_max_lr), (cycle_min_mom, cycle_max_mom)
        self._sizes, self._stairs = (cycle_first_step_size, second), (cycle_first_stair_count, stairs)
        self._total = cycle_first_step_size + second
        self._decays, self._decay_size = (decay_lr_rate, decay_mom_rate), decay_step_size
        self._cycles_momentum = cycle_momentum
        super().__init__(optimizer, last_batch_iteration)
        self._cycles_momentum = cycle_momentum and all("betas" in group for group in self.groups)
        if last_batch_iteration == -1:
            self._set_momentum(cycle_min_mom)

    def _scale(self) -> float:
        """How far the cycle is from its ends, 0 to 1."""
        place = (self.last_batch_iteration + 1) % self._total
        rising = place <= self._sizes[0]
        size, stairs = (self._sizes[0], self._stairs[0]) if rising else (self._sizes[1], self._stairs[1])
        inside = place if rising else self._total - place
        return math.floor(inside * stairs / size) / stairs if stairs > 0 else inside / size

    def _after(self) -> float | None:
        """Decay intervals since the cycle ended; None inside it, 0 without decay."""
        if self.last_batch_iteration < self._total:
            return None
        return (self.last_batch_iteration - self._total + 1) / self._decay_size if self._decay_size else 0.0

    def first(self) -> list[float]:
        """The smallest rate."""
        return self.each(self._lrs[0], "cycle_min_lr")

    def get_lr(self) -> list[float]:
        """Between the two rates in the cycle; after it the smallest, divided by 1 + rate · intervals."""
        low, high, after = self.first(), self.each(self._lrs[1], "cycle_max_lr"), self._after()
        if after is None:
            scale = self._scale()
            return [a + (b - a) * scale for a, b in zip(low, high, strict=True)]
        return [rate / (1 + self._decays[0] * after) for rate in low]

    def get_mom(self) -> float | None:
        """The momentum (first beta) at `last_batch_iteration`; None where it does not cycle."""
        if not self._cycles_momentum:
            return None
        (low, high), after = self._moms, self._after()
        return high - (high - low) * self._scale() if after is None else high * (1 + self._decays[1] * after)

    def _set_momentum(self, momentum: float | None) -> None:
        for group in self.groups if self._cycles_momentum else ():
            group["betas"] = (momentum, group["betas"][1])

    def _set(self, rates: Sequence[float]) -> None:
        super()._set(rates)
        if self.last_batch_iteration >= 0:
            self._set_momentum(self.get_mom())


class WarmupLR(Schedule):
    """From the smallest to the largest rate, along a logarithm or a line, and then constant."""

    def __init__(self, optimizer: Any, warmup_min_lr: float | Sequence[float] = 0.0,
                 warmup_max_lr: float | Sequence[float] | None = None, warmup_num_steps: int = 1000,
                 warmup_type: str = "log", last_batch_iteration: int = -1):  # fmt: skip
        _positive(warmup_num_steps=warmup_num_steps)
        self._shape = _shape(warmup_type)
        inner = getattr(optimizer, "optimizer", optimizer)
        peaks = [float(group["lr"]) for group in inner.param_groups]
        self._min, self._max = warmup_min_lr, peaks if warmup_max_lr is None else warmup_max_lr
        self.warmup_num_steps = max(2, warmup_num_steps)
        super().__init__(optimizer, last_batch_iteration)

    def first(self) -> list[float]:
        """The smallest rate."""
        return self.each(self._min, "warmup_min_lr")

    def get_lr(self) -> list[float]:
        """min + (max - min) · share."""
        low, high, share = self.first(), self.each(self._max, "warmup_max_lr"), self._share()
        return [a + (b - a) * share for a, b in zip(low, high, strict=True)]

    def _share(self) -> float:
        if self.last_batch_iteration < self.warmup_num_steps:
            return _warm(self._shape, self.last_batch_iteration, self.warmup_num_steps)
        return self._after()

    def _after(self) -> float:
        return 1.0


class WarmupDecayLR(WarmupLR):
    """WarmupLR, then along a line to the smallest rate at `total_num_steps`."""

    def __init__(self, optimizer: Any, total_num_steps: int, warmup_min_lr: float | Sequence[float] = 0.0,
                 warmup_max_lr: float | Sequence[float] = 0.001, warmup_num_steps: int = 1000,
                 warmup_type: str = "log", last_batch_iteration: int = -1):  # fmt: skip
        self.total_num_steps = total_num_steps
        super().__init__(optimizer, warmup_min_lr, warmup_max_lr, warmup_num_steps, warmup_type, last_batch_iteration)

    def _after(self) -> float:
        left, length = self.total_num_steps - self.last_batch_iteration, self.total_num_steps - self.warmup_num_steps
        return max(0.0, left / max(1.0, length))


class WarmupCosineLR(Schedule):
    """From a share of the optimizer's rate to the whole, then along half a cosine to another share."""

    def __init__(self, optimizer: Any, total_num_steps: int, warmup_min_ratio: float = 0.0,
                 warmup_num_steps: int = 1000, cos_min_ratio: float = 0.0001, warmup_type: str = "log",
                 last_batch_iteration: int = -1):  # fmt: skip
        _positive(warmup_num_steps=warmup_num_steps)
        self._shape, self._low, self._end = _shape(warmup_type), warmup_min_ratio, cos_min_ratio
        self.total_num_steps, self.warmup_num_steps = total_num_steps, max(2, warmup_num_steps)
        inner = getattr(optimizer, "optimizer", optimizer)
        self._peaks = [float(group["lr"]) for group in inner.param_groups]
        super().__init__(optimizer, last_batch_iteration)

    def first(self) -> list[float]:
        """0, as in DeepSpeed."""
        return [0.0 for _ in self._peaks]

    def get_lr(self) -> list[float]:
        """The optimizer's rates times `get_lr_ratio`."""
        return [peak * self.get_lr_ratio() for peak in self._peaks]

    def get_lr_ratio(self) -> float:
        """Share of the peak at `last_batch_iteration`."""
        now, warmup = self.last_batch_iteration, self.warmup_num_steps
        if now < warmup:
            return self._low + (1 - self._low) * _warm(self._shape, now, warmup)
        progress = min(1.0, (now - warmup + 1) / max(1, self.total_num_steps - warmup))
        return max(0.0, self._end + (1 - self._end) * (1 + math.cos(math.pi * progress)) / 2)


def _warm(shape: str, step: int, steps: int) -> float:
    return math.log(step + 1) / math.log(steps) if shape == "log" else step / steps


def _shape(kind: str) -> str:
    if kind not in ("log", "linear"):
        raise ValueError(f"warmup_type is log or linear, got {kind}.{suggestion(kind, ('log', 'linear'))}")
    return kind


def _positive(**values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value <= 0:
            raise ValueError(f"{name} must be a whole number above 0, got {value}.")


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
