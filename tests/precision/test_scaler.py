from __future__ import annotations

import torch

from zerokit.config import registry
from zerokit.config.registry import Choice
from zerokit.precision._scaler import DynamicScaler, StaticScaler

CPU = torch.device("cpu")


def scales(scaler, outcomes: str) -> list[float]:
    """The scale after each step; `.` is a step taken, `x` an overflow."""
    seen = []
    for outcome in outcomes:
        scaler.update(torch.tensor(outcome == "."))
        seen.append(float(scaler.scale))
    return seen


def test_grows_after_a_window_without_overflow():
    assert scales(DynamicScaler(8.0, 3, 1, 1.0, 2.0, CPU), ".......") == [8, 8, 16, 16, 16, 32, 32]


def test_an_overflow_starts_the_window_again():
    assert scales(DynamicScaler(8.0, 3, 1, 1.0, 2.0, CPU), "..x...") == [8, 8, 4, 4, 4, 8]


def test_hysteresis_tolerates_overflows_until_it_has_grown():
    assert scales(DynamicScaler(8.0, 2, 2, 1.0, 2.0, CPU), "xxx") == [8, 4, 2]
    assert scales(DynamicScaler(8.0, 2, 2, 1.0, 2.0, CPU), "xx..xx") == [8, 4, 4, 8, 8, 4]


def test_never_below_the_minimum():
    scaler = DynamicScaler(4.0, 10, 1, 1.0, 2.0, CPU)
    assert scales(scaler, "xxxx") == [2, 1, 1, 1]
    assert bool(scaler.exhausted())


def test_a_static_scale_never_moves():
    assert scales(StaticScaler(128.0, CPU), "x.x.") == [128.0] * 4


def test_the_defaults_are_those_of_the_documentation():
    options = registry.options_type("precision", "fp16")()
    scaler = registry.build("precision", Choice("fp16", options)).scaler(CPU)
    assert (float(scaler.scale), scaler.window, scaler.hysteresis, scaler.minimum, scaler.growth) == (
        65536,
        1000,
        2,
        1,
        2,
    )
    static = registry.build("precision", Choice("fp16", registry.options_type("precision", "fp16")(loss_scale=64.0)))
    assert isinstance(static.scaler(CPU), StaticScaler)


def test_consecutive_hysteresis_counts_anew_after_every_good_step():
    scaler = DynamicScaler(8.0, 100, 2, 1.0, 2.0, CPU, consecutive=True)
    assert scales(scaler, "x.x.xx.x") == [8, 8, 8, 8, 8, 4, 4, 4]
