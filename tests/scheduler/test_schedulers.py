from __future__ import annotations

import pytest

from zerokit.config import registry
from zerokit.config.registry import Choice


def factors(name: str, steps: int = 100, **options) -> list[float]:
    choice = Choice(name, registry.options_type("scheduler", name)(**options))
    schedule = registry.build("scheduler", choice, total_steps=steps)
    return [schedule(step) for step in range(steps)]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
def test_warmup_in_steps_and_as_a_fraction_are_the_same(name):
    curve = factors(name, warmup=10)
    assert curve[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert curve == factors(name, warmup=0.1)
    assert max(curve) == 1.0


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
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
