"""Read back with TensorBoard's own reader."""

from __future__ import annotations

import json
import logging
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.config.arguments import config
from zerokit.config import checks
from zerokit.config.errors import ConfigError
from zerokit.config.registry import Choice, build
from zerokit.tracker import RunInfo
from zerokit.tracker.tensorboard import TensorboardOptions


def start(folder, **info):
    return build(
        "tracker", Choice("tensorboard", TensorboardOptions()), run=RunInfo(folder, {"optimizer": {"lr": 1e-3}}, **info)
    )


def read(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def text(events, tag: str):
    (event,) = events.Tensors(f"{tag}/text_summary")
    return json.loads(event.tensor_proto.string_val[0])


def test_everything_is_read_back(tmp_path):
    tracker = start(tmp_path, name="mine", group="sweep", tags=["stage2"])
    for step in (1, 2, 5):
        tracker.log({"train/loss": 4.0 / step, "memory/max_allocated_gib": 0.5}, step)
    tracker.log({"train/loss": math.nan}, 6)
    tracker.finish({"status": "finished", "loss": 0.8})
    tracker.finish({})
    tracker.log({"train/loss": 1.0}, 7)
    events = read(tmp_path)
    assert set(events.Tags()["scalars"]) == {"train/loss", "memory/max_allocated_gib"}
    *rows, last = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert rows == [(1, 4), (2, 2), (5, pytest.approx(0.8))]
    assert last[0] == 6 and math.isnan(last[1])
    assert text(events, "config") == {"optimizer": {"lr": 1e-3}}
    assert text(events, "run") == {"name": "mine", "group": "sweep", "job_type": "train", "tags": ["stage2"]}
    assert text(events, "summary") == {"status": "finished", "loss": 0.8}


def test_a_failure_is_one_warning_and_the_training_goes_on(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        tracker = start(tmp_path)
        tracker.log({"train/loss": 1.0}, 1)
        tracker.finish({})
    (record,) = caplog.records
    assert "tensorboard is off" in record.getMessage() and "\n" not in record.getMessage()


def test_without_the_package_the_config_says_so(monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'zerokit\[tensorboard\]'"):
        config("tracker=tensorboard")


def test_the_option_must_be_positive():
    with pytest.raises(ValueError, match="flush_secs must be above 0"):
        TensorboardOptions(flush_secs=0)
