"""Going on with fewer or more steps changes the schedule of the learning rate: refused as any other difference is."""

from __future__ import annotations

import pytest

from tests.config.arguments import config
from tests.state.trained import fit, open_trainer
from zerokit.config.errors import ConfigError
from zerokit.config.schedule import fixed_length
from zerokit.launch import launch
from zerokit.state.errors import StateMismatch

SAVED = ("state.every=2", "state.asynchronous=false", "train.steps=4")


@pytest.mark.parametrize(
    ("words", "length"),
    [
        (("scheduler=cosine",), 40),
        (("scheduler=linear",), 40),
        (("scheduler=wsd",), 40),
        (("scheduler=polynomial",), 40),
        (("scheduler=constant", "scheduler.warmup=0.1"), 40),
        (("scheduler=constant", "scheduler.warmup=4"), None),
        (("scheduler=inverse_sqrt", "scheduler.warmup=4"), None),
        (("scheduler=warmup",), None),
        (("scheduler=cosine", "scheduler.total_steps=70"), 70),
        (("scheduler=constant", "scheduler.total_steps=70", "scheduler.warmup=0.5"), 70),
    ],
)
def test_which_schedules_depend_on_the_length_of_the_run(words, length):
    assert fixed_length(config("train.steps=40", *words)) == length


@pytest.mark.parametrize("steps", [6, 3])
def test_another_number_of_steps_is_refused_with_the_way_out(tmp_path, steps):
    fit(*open_trainer(tmp_path, *SAVED), until=2)
    with pytest.raises(StateMismatch) as error:
        open_trainer(tmp_path, *SAVED, f"train.steps={steps}")
    assert f"scheduler.total_steps: 4 in the state, {steps} here" in str(error.value)
    assert "keep the schedule of the learning rate with scheduler.total_steps=4" in str(error.value)


def test_total_steps_keeps_the_schedule_bit_for_bit(tmp_path):
    trainer, saver = open_trainer(tmp_path / "whole", *SAVED)
    fit(trainer, saver)
    fit(*open_trainer(tmp_path / "cut", *SAVED), until=2)
    longer, saver = open_trainer(tmp_path / "cut", *SAVED, "train.steps=6", "scheduler.total_steps=4")
    fit(longer, saver, until=4)
    assert longer.engine.reader.sha256() == trainer.engine.reader.sha256() and longer.lr == trainer.lr


@pytest.mark.parametrize("words", [("scheduler=constant",), ("state.allow_changed=[scheduler.total_steps]",)])
def test_what_stays_the_same_or_is_allowed_goes_on(tmp_path, words):
    fit(*open_trainer(tmp_path, *SAVED, *words))
    assert open_trainer(tmp_path, *SAVED, *words, "train.steps=6")[0].progress.step == 4


def test_it_is_refused_before_a_worker_starts(tmp_path):
    fit(*open_trainer(tmp_path, *SAVED))
    from tests.state.trained import SMALL

    with pytest.raises(ConfigError, match=r"scheduler\.total_steps: 4 in the state, 6 here"):
        launch(config(*SMALL, "train.steps=6"), tmp_path)
