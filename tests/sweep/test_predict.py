"""The process that predicts the cells of a sweep."""

from __future__ import annotations

import time

import pytest

from tests.config.arguments import config
from zerokit.sweep.predict import Predictor
from zerokit.sweep.slots import Slot

TINY = ("debug=tiny", "data=synthetic", "batch.global=8")


@pytest.fixture(scope="module")
def predictor():
    made = Predictor(Slot())
    yield made
    made.close()


def test_what_zero_auto_would_choose_is_predicted_not_the_stage_that_it_replaces(predictor):
    whole = predictor.forecast(config(*TINY))
    limit = f"estimate.memory_gib={0.8 * whole.gib}"
    assert predictor.forecast(config(*TINY, limit)).too_large
    chosen = predictor.forecast(config(*TINY, limit, "zero=auto"))
    assert (chosen.error, chosen.too_large) == (None, None) and 0 < chosen.gib <= 0.8 * whole.gib


def test_it_ends_as_soon_as_nobody_can_ask_any_more():
    predictor = Predictor(Slot())
    began = time.monotonic()
    predictor.close()
    assert time.monotonic() - began < 2
    assert predictor.forecast(config(*TINY)).error == "the process that predicts has ended"
