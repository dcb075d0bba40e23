from __future__ import annotations

import math

import pytest
import torch

from tests.config.arguments import config
from tests.state.trained import SMALL
from zerokit.callbacks import Run
from zerokit.callbacks.early_stopping import EarlyStopping
from zerokit.comm import Communicator
from zerokit.config.errors import ConfigError
from zerokit.train.assemble import assemble
from zerokit.train.callbacks import named
from zerokit.train.resume import open_state


def made(*words: str) -> tuple[EarlyStopping, Run]:
    """The callback, and the run that it can stop."""
    cfg = config("train.eval_every=1", *(f"callbacks.early_stopping.{word}" for word in ("metric=eval/loss", *words)))
    run = Run(cfg, None, 0, 1, {})
    return named(run)["early_stopping"], run


def steps_until_stopped(values: list[float], *words: str) -> int | None:
    callback, run = made(*words)
    for step, value in enumerate(values, start=1):
        callback.on_evaluate(step, {"eval/loss": value})
        if run.stopped:
            return step
    return None


@pytest.mark.parametrize(
    ("values", "words", "stopped"),
    [
        ([4, 3, 2, 1], ["patience=1"], None),
        ([4, 3, 3, 1], ["patience=1"], 3),
        ([4, 5, 6, 3, 5, 4], ["patience=3"], None),
        ([4, 5, 6, 3, 5, 4, 3], ["patience=3"], 7),
        ([1, 2, 3, 2, 1], ["patience=2", "mode=max"], 5),
        ([4, 3.9, 3.8, 3.7], ["patience=3", "min_delta=0.5"], 4),
        ([math.nan, math.inf, 2, 1], ["patience=3"], None),
        ([math.nan] * 3, ["patience=3"], 3),
    ],
)
def test_it_stops_when_patience_is_at_its_end(values, words, stopped):
    assert steps_until_stopped(values, *words) == stopped


def test_the_summary_says_why():
    callback, run = made("patience=1")
    for value in (2.0, 2.5):
        callback.on_evaluate(1, {"eval/loss": value})
    assert run.summary == {"stopped": "eval/loss has not got better in 1 evaluations; the best was 2"}


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="set train.eval_every=STEPS"):
        named(Run(config("callbacks=early_stopping", "train.eval_every=0"), None, 0, 1, {}))
    with pytest.raises(ConfigError, match="patience must be at least 1, got 0"):
        made("patience=0")
    callback, _ = made("metric=eval/los")
    with pytest.raises(ConfigError, match="there is no metric 'eval/los'. Did you mean eval/loss"):
        callback.on_evaluate(1, {"eval/loss": 1.0})


def test_a_run_that_goes_on_counts_on(tmp_path):
    cfg = config(*SMALL, "train.eval_every=1", "callbacks=early_stopping", "state.every=1", "state.asynchronous=false")

    def opened():
        trainer = assemble(cfg, Communicator(torch.device("cpu"), 60))
        callbacks = named(Run(cfg, tmp_path, 0, 1, {}, trainer))
        saver, resumed = open_state(trainer, cfg, cfg.to_dict(), tmp_path, callbacks=callbacks)
        return trainer, saver, callbacks["early_stopping"], resumed

    trainer, saver, callback, _ = opened()
    saved = []
    saver.on_saved = lambda step, path: saved.append((step, path.is_dir()))
    for step, metrics in trainer.fit():
        callback.on_evaluate(step, metrics)
        callback.worse = 2
        saver.on_step(step)
        break
    assert saved == [(1, True)]
    _, _, again, resumed = opened()
    assert resumed is not None and again.state() == callback.state() == {"best": metrics["eval/loss"], "worse": 2}
