"""DeepSpeed's schedulers, value by value: a small optimizer loop in the order of its engine, with the formulas of
`deepspeed/runtime/lr_schedules.py` (0.19) written out again as functions of the last batch."""

from __future__ import annotations

import math

import pytest

from tests.scheduler.test_schedulers import rates

PEAK, STEPS = 0.3, 60


def played(first, formula, steps: int = STEPS) -> list:
    """Values at each step: `first` until the first step is done, then `formula(last batch)`."""
    values, last = [], -1
    current = first
    for _ in range(steps):
        values.append(current)  # the optimizer steps with it
        last += 1  # then the scheduler does
        current = formula(last)
    return values


def gamma(last: int, steps: int, kind: str) -> float | None:
    if last >= steps:
        return None
    return math.log(last + 1) / math.log(steps) if kind == "log" else last / steps


@pytest.mark.parametrize("kind", ["log", "linear"])
@pytest.mark.parametrize(("low", "high"), [(0.0, None), (0.02, 0.7)])
def test_warmup(kind, low, high):
    top = PEAK if high is None else high

    def formula(last):
        g = gamma(last, 10, kind)
        return low + (top - low) * (1.0 if g is None else g)

    options = {"warmup_min_lr": low, "warmup_max_lr": high, "warmup_num_steps": 10, "warmup_type": kind}
    mine = [r.lr for r in rates("warmup", STEPS, PEAK, **options)]
    assert mine == pytest.approx(played(low, formula), rel=1e-15, abs=0)
    assert mine[0] == mine[1] == low and mine[11] == top


def test_a_warmup_of_one_step_takes_two():
    assert [r.lr for r in rates("warmup", 4, 1.0, warmup_num_steps=1)] == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["log", "linear"])
@pytest.mark.parametrize("total", [None, 40, 5])
def test_warmup_decay(kind, total):
    end = total or STEPS

    def formula(last):
        g = gamma(last, 10, kind)
        return 0.01 + (PEAK - 0.01) * (max(0.0, (end - last) / max(1.0, end - 10)) if g is None else g)

    options = {"warmup_min_lr": 0.01, "warmup_num_steps": 10, "warmup_type": kind, "total_num_steps": total}
    mine = [r.lr for r in rates("warmup_decay", STEPS, PEAK, **options)]
    assert mine == pytest.approx(played(0.01, formula), rel=1e-15, abs=0)


@pytest.mark.parametrize("kind", ["log", "linear"])
@pytest.mark.parametrize("total", [None, 40])
def test_warmup_cosine(kind, total):
    end = total or STEPS

    def formula(last):
        g = gamma(last, 10, kind)
        if g is not None:
            return PEAK * (0.2 + g * 0.8)
        progress = min(1.0, (last - 10 + 1) / (end - 10))
        return PEAK * (0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2)

    options = {"warmup_min_ratio": 0.2, "cos_min_ratio": 0.05, "warmup_num_steps": 10, "warmup_type": kind}
    mine = [r.lr for r in rates("warmup_cosine", STEPS, PEAK, total_num_steps=total, **options)]
    assert mine == pytest.approx(played(0.0, formula), rel=1e-15, abs=0)
    assert mine[-1] == pytest.approx(0.05 * PEAK, rel=0.02)


@pytest.mark.parametrize("staircase", [True, False])
def test_lr_range_test(staircase):
    def formula(last):
        interval = (last + 1) / 7
        return 0.001 * (1 + 5.0 * (math.floor(interval) if staircase else interval))

    options = {"lr_range_test_min_lr": 0.001, "lr_range_test_step_size": 7, "lr_range_test_step_rate": 5.0}
    mine = [r.lr for r in rates("lr_range_test", STEPS, PEAK, lr_range_test_staircase=staircase, **options)]
    assert mine == pytest.approx(played(0.001, formula), rel=1e-15, abs=0)


def stairs(position: float, count: int, whole: float) -> float:
    return math.floor(position * count / whole) / count


@pytest.mark.parametrize("second", [None, 5])
@pytest.mark.parametrize(("first_stairs", "second_stairs"), [(0, None), (4, None), (2, 5), (4, 0)])
@pytest.mark.parametrize("decay_step", [0, 6])
def test_one_cycle(second, first_stairs, second_stairs, decay_step):
    up, down = 10, 10 if second is None else second
    counts = (first_stairs, first_stairs if second_stairs is None else second_stairs)

    def height(batch):
        place = batch % (up + down)
        if place <= up:
            return stairs(place, counts[0], up) if counts[0] else place / up
        left = up + down - place
        return stairs(left, counts[1], down) if counts[1] else left / down

    def formula(last):
        if last < up + down:
            h = height(last + 1)
            return (0.01 + (PEAK - 0.01) * h, 0.9 - (0.9 - 0.8) * h)
        intervals = (last - (up + down) + 1) / decay_step if decay_step else 0.0
        return (0.01 / (1 + 0.5 * intervals), 0.9 * (1 + 0.01 * intervals))

    options = {"cycle_min_lr": 0.01, "cycle_first_step_size": up, "cycle_second_step_size": second}
    options |= {"cycle_first_stair_count": first_stairs, "cycle_second_stair_count": second_stairs}
    options |= {"decay_step_size": decay_step, "decay_lr_rate": 0.5, "decay_mom_rate": 0.01}
    mine = rates("one_cycle", STEPS, PEAK, **options)
    theirs = played((0.01, 0.8), formula)  # before the first batch DeepSpeed sets the smallest momentum
    # the height is reached in another order of operations: a few ULP
    assert [r.lr for r in mine] == pytest.approx([lr for lr, _ in theirs], rel=1e-13)
    assert [r.momentum for r in mine] == pytest.approx([momentum for _, momentum in theirs], rel=1e-13)
    assert mine[10].lr == pytest.approx(PEAK)
    plain = rates("one_cycle", STEPS, PEAK, cycle_momentum=False, **options)
    assert {r.momentum for r in plain} == {None} and [r.lr for r in plain] == [r.lr for r in mine]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("warmup", {"warmup_num_steps": 0}),
        ("one_cycle", {"cycle_first_step_size": 0}),
        ("lr_range_test", {"lr_range_test_step_size": 0}),
    ],
)
def test_impossible_lengths_are_refused(name, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be above 0"):
        rates(name, **options)
