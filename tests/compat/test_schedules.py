"""DeepSpeed's schedulers as objects: the values that its formulas give after every step."""

from __future__ import annotations

import math

import pytest
import torch

from tests.compat.scripts import make, train
from zerokit.compat.deepspeed.lr_schedules import LRRangeTest, OneCycle, WarmupCosineLR, WarmupDecayLR, WarmupLR
from zerokit.config.errors import ConfigError


def optimizer(*rates: float) -> torch.optim.Optimizer:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates or (0.1,)]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95))


def rates(scheduler, steps: int) -> list[float]:
    """The first group's learning rate at each of the first steps."""
    seen = []
    for _ in range(steps):
        seen.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.step()
    return seen


def warm(last: int, steps: int, kind: str) -> float:
    return math.log(last + 1) / math.log(steps) if kind == "log" else last / steps


@pytest.mark.parametrize("kind", ["log", "linear"])
def test_warmup(kind):
    expected = [0.01, *(0.01 + 0.19 * (warm(k, 4, kind) if k < 4 else 1.0) for k in range(7))]
    assert rates(WarmupLR(optimizer(), 0.01, 0.2, 4, kind), 8) == pytest.approx(expected, rel=1e-12)


def test_warmup_and_a_line_down():
    after = [max(0.0, (8 - k) / 4) for k in range(4, 11)]
    expected = [0.0, *(0.2 * warm(k, 4, "log") for k in range(4)), *(0.2 * share for share in after)]
    assert rates(WarmupDecayLR(optimizer(), 8, 0.0, 0.2, 4), 12) == pytest.approx(expected, rel=1e-12)


def test_warmup_and_a_cosine():
    up = [0.2 + 0.8 * warm(k, 3, "linear") for k in range(3)]
    down = [0.1 + 0.9 * (1 + math.cos(math.pi * min(1.0, (k - 3 + 1) / 5))) / 2 for k in range(3, 10)]
    expected = [0.0, *(0.1 * share for share in (*up, *down))]
    assert rates(WarmupCosineLR(optimizer(0.1), 8, 0.2, 3, 0.1, "linear"), 11) == pytest.approx(expected, rel=1e-12)


def test_range_test():
    expected = [0.01 * (1 + 2.0 * math.floor((k + 1) / 3)) for k in range(-1, 7)]
    assert rates(LRRangeTest(optimizer(), 0.01, 3, 2.0, True), 8) == pytest.approx(expected, rel=1e-12)


def test_one_cycle_with_momentum():
    scheduler = OneCycle(optimizer(), 0.1, 0.5, cycle_first_step_size=2, cycle_second_step_size=4, decay_step_size=2,
                         decay_lr_rate=0.5, cycle_min_mom=0.5, cycle_max_mom=0.9)  # fmt: skip
    seen = []
    for _ in range(10):
        group = scheduler.optimizer.param_groups[0]
        seen.append((round(group["lr"], 9), round(group["betas"][0], 9), group["betas"][1]))
        scheduler.step()
    scale = [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    cycle = [(round(0.1 + 0.4 * s, 9), round(0.9 - 0.4 * s, 9), 0.95) for s in scale[1:]]
    assert seen[1:7] == cycle
    assert [rate for rate, _, _ in seen[8:]] == [round(0.1 / (1 + 0.5 * k / 2), 9) for k in (2, 3)]


def test_every_group_has_its_own_rates():
    scheduler = WarmupLR(optimizer(0.1, 0.4), [0.0, 0.2], None, 2, "linear")
    assert scheduler.get_last_lr() == [0.0, 0.2]
    for _ in range(4):
        scheduler.step()
    assert scheduler.get_lr() == [0.1, 0.4] == scheduler.get_last_lr()
    again = WarmupLR(optimizer(0.1, 0.4), [0.0, 0.2], None, 2, "linear")
    again.load_state_dict(scheduler.state_dict())
    assert [group["lr"] for group in again.optimizer.param_groups] == [0.1, 0.4]
    with pytest.raises(ConfigError, match="warmup_min_lr has 3 values for 2 parameter groups"):
        WarmupLR(optimizer(0.1, 0.4), [0.0, 0.2, 0.3])


def test_wrong_values_are_named():
    with pytest.raises(ConfigError, match=r"scheduler.params.warmup_type: expected one of log, linear; got logg"):
        WarmupLR(optimizer(), warmup_type="logg")
    with pytest.raises(ConfigError, match="warmup_num_steps must be above 0"):
        WarmupLR(optimizer(), warmup_num_steps=0)


def test_the_jsons_scheduler_moves_the_engines_rate():
    for section, expected in (
        (
            {"type": "WarmupLR", "params": {"warmup_max_lr": "auto", "warmup_num_steps": 2, "warmup_type": "linear"}},
            0.01,
        ),
        ({"type": "StepLR", "params": {"step_size": 1, "gamma": 0.5}}, 0.01 * 0.5**4),
        ({"type": "OneCycle", "params": {"cycle_min_lr": 0.1, "cycle_max_lr": 0.5, "cycle_first_step_size": 4}}, 0.5),
    ):
        config = {"scheduler": section}
        if "auto" in section["params"].values():
            with pytest.raises(ConfigError, match="warmup_max_lr is 'auto', but there is no optimizer"):
                make(2, **config)
            engine, *_ = make(2, lambda p: torch.optim.Adam(p, lr=0.01), **config)
        else:
            engine, *_ = make(2, **config)
        train(engine, 4)
        assert engine.get_lr() == pytest.approx([expected])
