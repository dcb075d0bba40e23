"""When a run says that the GPU waited for the host."""

from __future__ import annotations

import pytest

from zerokit.train.waits import Waits


def after(*windows: tuple[float, int, float], others: float = 0.0, kernels: int = 1000) -> bool:
    """Whether the host limits a rank with these windows (waited, steps, data) of 0.1 s per step."""
    waits = Waits(kernels)
    for waited, steps, data in windows:
        waits.note([waits.last, others])  # at every line of metrics, of the window before
        waits.measure(waited, 0.1, steps, data)
    waits.note([waits.last, others])
    return waits.host_limits


@pytest.mark.parametrize(
    ("waited", "data", "limits"),
    [(0.001, 0.0, True), (0.02, 0.0, True), (0.2, 0.0, False), (0.001, 0.9, False)],
    ids=["caught up", "but for the update", "behind", "no data"],
)
def test_the_host_limits_where_the_device_has_caught_up(waited, data, limits):
    assert after(*[(waited, 10, data)] * 4, others=9.0) is limits


def test_a_host_that_waits_for_another_is_no_sign_of_a_busy_device():
    assert after(*[(0.2, 10, 0.0)] * 4, others=0.1)


def test_the_first_window_and_short_ones_say_nothing():
    assert not Waits(1000).host_limits
    assert not after((0.0, 10, 0.0), *[(0.0, 4, 0.0)] * 4)
    assert after(*[(waited, 10, 0.0) for waited in (0.0, 1.0, 1.0, 0.0, 0.0, 0.0)], others=9.0)
    assert not after(*[(waited, 10, 0.0) for waited in (0.0, 0.0, 1.0, 1.0)], others=9.0)


@pytest.mark.parametrize("kernels", [950, 3000, 5000, 10553, 100_000])
def test_a_busy_device_with_a_full_queue_is_no_sign(kernels):
    """The host waits in a launch when about 1024 kernels are pending, of however many a step has."""
    behind = 0.1 * 1024 / kernels
    assert not after(*[(behind, 10, 0.0)] * 4, others=9.0, kernels=kernels)
