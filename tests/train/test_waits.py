"""When a run says that the GPU waited for the host."""

from __future__ import annotations

import pytest

from zerokit.train.waits import Waits


@pytest.mark.parametrize(
    ("waited", "data", "limits"),
    [(0.001, 0.0, True), (0.02, 0.0, True), (0.2, 0.0, False), (0.001, 0.9, False)],
    ids=["caught up", "but for the update", "behind", "no data"],
)
def test_the_host_limits_where_the_device_has_caught_up(waited, data, limits):
    waits = Waits()
    for _ in range(4):
        waits.note(waited, step=0.1, steps=10, data=data)
    assert waits.host_limits is limits


def test_the_first_window_and_short_ones_say_nothing():
    waits = Waits()
    assert not waits.host_limits
    for steps in (10, 1, 4, 4, 4):
        waits.note(0.0, step=0.1, steps=steps, data=0.0)
    assert not waits.host_limits
    for waited in (0.0, 1.0, 1.0, 0.0, 0.0):
        waits.note(waited, step=0.1, steps=10, data=0.0)
    assert waits.host_limits
