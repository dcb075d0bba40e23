"""The process that predicts the cells of a sweep."""

from __future__ import annotations

import multiprocessing
import os
import signal
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


def test_it_is_ended_without_a_word_when_the_sweep_is_killed(capfd):
    def end(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)  # as a sweep has it
    others = set(multiprocessing.active_children())
    try:
        predictor = Predictor(Slot())
        predictor.forecast(config(*TINY))
        (process,) = set(multiprocessing.active_children()) - others
        os.kill(process.pid, signal.SIGTERM)
        process.join(5)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert process.exitcode == -signal.SIGTERM
    assert "Traceback" not in capfd.readouterr().err
