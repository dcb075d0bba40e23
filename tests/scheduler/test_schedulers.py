from __future__ import annotations

import pytest
import torch

from zerokit.config import registry
from zerokit.config.errors import ConfigError
from zerokit.config.registry import Choice
from zerokit.scheduler._base import Rates


def rates(name: str, steps: int = 100, peak_lr: float = 1.0, **options) -> list[Rates]:
    choice = Choice(name, registry.options_type("scheduler", name)(**options))
    schedule = registry.build("scheduler", choice, total_steps=steps, peak_lr=peak_lr)
    return [schedule(step) for step in range(steps)]


def factors(name: str, steps: int = 100, **options) -> list[float]:
    return [rate.lr for rate in rates(name, steps, **options)]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd", "polynomial", "inverse_sqrt"])
def test_warmup_in_steps_and_as_a_fraction_are_the_same(name):
    curve = factors(name, warmup=10)
    assert curve[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert curve == factors(name, warmup=0.1)
    assert max(curve) == 1.0


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd", "polynomial"])
def test_decays_to_its_final_value(name):
    curve = factors(name, warmup=0, final=0.1)
    assert curve[0] == 1.0
    assert all(a >= b for a, b in zip(curve, curve[1:], strict=False))
    assert 0.1 < curve[-1] < 0.2


def test_shapes_at_the_middle():
    assert factors("constant")[50] == 1.0
    assert factors("linear", final=0.2)[50] == pytest.approx(0.6)
    assert factors("cosine", final=0.2)[50] == pytest.approx(0.6)
    assert factors("cosine")[25] == pytest.approx(0.853553, abs=1e-5)


def test_wsd_is_stable_then_falls():
    curve = factors("wsd", warmup=10, decay=20, shape="linear")
    assert curve[10:81] == [1.0] * 71
    assert curve[90] == pytest.approx(0.5)
    assert factors("wsd", warmup=10, decay=0.2)[90] == pytest.approx(1 - 0.5**0.5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosine", {"warmup": 200}, "longer than the run of 100 steps"),
        ("cosine", {"warmup": 1.5}, "whole number of steps"),
        ("linear", {"final": 2.0}, r"in \[0, 1\]"),
        ("wsd", {"warmup": 0.5, "decay": 0.6}, "together longer"),
    ],
)
def test_impossible_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        factors(name, **options)


def test_polynomial_and_inverse_sqrt_by_their_formulas():
    assert factors("polynomial", power=2.0, final=0.2)[50] == pytest.approx(0.2 + 0.8 * 0.25)
    assert factors("polynomial", power=1.0) == pytest.approx(factors("linear"))
    assert factors("inverse_sqrt", warmup=4)[15] == pytest.approx((4 / 16) ** 0.5)
    assert factors("inverse_sqrt", warmup=0)[8] == pytest.approx(1 / 3)


def test_the_peak_is_the_optimizers_learning_rate():
    for name in ("constant", "linear", "inverse_sqrt", "warmup"):
        assert max(factors(name, peak_lr=0.3, **({"warmup_num_steps": 10} if name == "warmup" else {}))) == 0.3


TORCH = {
    "StepLR": {"step_size": 7, "gamma": 0.5},
    "MultiStepLR": {"milestones": [3, 20]},
    "ConstantLR": {},
    "LinearLR": {"total_iters": 20},
    "ExponentialLR": {"gamma": 0.97},
    "CosineAnnealingLR": {"T_max": 30, "eta_min": 0.01},
    "CosineAnnealingWarmRestarts": {"T_0": 11},
    "PolynomialLR": {"total_iters": 25},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 9},
    "OneCycleLR": {"max_lr": 0.4, "total_steps": 40},
}


@pytest.mark.parametrize("name", TORCH)
def test_a_scheduler_of_torch_gives_its_own_values(name):
    mine = rates("torch", 40, peak_lr=0.2, type=name, params=TORCH[name])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2, momentum=0.9)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **TORCH[name])
    for step in range(40):
        group = optimizer.param_groups[0]
        assert mine[step].lr == group["lr"]
        assert mine[step].momentum == (group["momentum"] if name in ("CyclicLR", "OneCycleLR") else None)
        optimizer.step()
        if step < 39:
            scheduler.step()


def test_a_scheduler_of_torch_can_go_back_to_an_earlier_step():
    choice = Choice("torch", registry.options_type("scheduler", "torch")(type="ExponentialLR", params={"gamma": 0.5}))
    schedule = registry.build("scheduler", choice, total_steps=10, peak_lr=1.0)
    assert [schedule(step).lr for step in (5, 2, 6)] == [2.0**-5, 2.0**-2, 2.0**-6]


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("StepLr", {}, "Did you mean scheduler.type=StepLR"),
        ("StepLR", {"stepsize": 3}, "Did you mean scheduler.params.step_size"),
        ("StepLR", {}, "missing 1 required positional argument: 'step_size'"),
        ("LambdaLR", {}, "takes a function"),
        ("SequentialLR", {}, "takes other schedulers"),
        ("ReduceLROnPlateau", {}, "waits for a metric"),
    ],
)
def test_what_cannot_be_taken_from_torch(kind, params, message):
    with pytest.raises(ConfigError, match=message):
        rates("torch", type=kind, params=params)
