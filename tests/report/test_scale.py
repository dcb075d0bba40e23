from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zerokit.report.scale import automatic, format_tick, linear, steps

values = st.floats(min_value=-1e12, max_value=1e12).filter(lambda value: value == 0 or abs(value) > 1e-12)


@given(st.lists(values, min_size=1, max_size=5), st.booleans())
def test_a_linear_scale_holds_all_values_between_few_ticks(points, zero):
    scale = linear(points, zero=zero)
    assert all(-1e-6 <= scale.at(value) <= 1 + 1e-6 for value in points)
    assert 2 <= len(scale.ticks) <= 8
    assert len(set(scale.labels())) == len(scale.labels())
    assert not zero or scale.low <= 0 <= scale.high


@given(st.lists(st.floats(min_value=1e-9, max_value=1e12), min_size=1, max_size=5))
def test_an_automatic_scale_holds_all_values(points):
    scale = automatic(points)
    assert all(-1e-6 <= scale.at(value) <= 1 + 1e-6 for value in points)
    assert 1 <= len(scale.ticks) <= 8


@given(st.integers(0, 10**7), st.integers(0, 10**7))
@example(0, 13)
def test_steps_have_whole_ticks_inside(first, last):
    scale = steps([first, last])
    assert all(scale.low <= tick <= scale.high and tick == int(tick) for tick in scale.ticks)
    assert 1 <= len(scale.ticks) <= 8


def test_values_over_decades_are_logarithmic_and_others_are_not():
    assert automatic([1, 1000]).logarithmic
    assert not automatic([1, 5]).logarithmic
    assert not automatic([-1, 1000]).logarithmic
    assert automatic([2, 8], log_above=2.5).labels() == ["2", "3", "4", "5", "6", "8"]


def test_ticks_are_round_with_equal_decimals():
    assert linear([0.02, 0.19]).labels() == ["0.00", "0.05", "0.10", "0.15", "0.20"]
    assert linear([0, 2e-3]).labels() == ["0", "5e-4", "1e-3", "1.5e-3", "2e-3"]
    assert linear([0, 48000]).labels() == ["0", "20k", "40k", "60k"]


def test_nothing_finite_still_makes_a_scale():
    assert linear([math.nan]).ticks == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (2.5e-4, "2.5e-4"), (0.05, "0.05"), (1500, "1.5k"), (2e6, "2M")])
def test_format_tick(value, text):
    assert format_tick(value) == text
