"""Figures of any size: a run that diverged, or a file that somebody has made up, still has a report."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.test_report import Page, change_summary, page, run_dir  # noqa: F401
from zerokit.record.metrics import MetricsFile, format_bytes, format_count, format_seconds
from zerokit.report import write_report
from zerokit.report.scale import automatic, format_tick, linear

HUGE = (1e15, 9.9949e17, 1e18, 3.4e38, -1e18, 1e149, 1e151, 1e308, -1e308, 5e-324, 10**400, -(10**30), math.inf)
METRICS = ("train/loss", "train/grad_norm", "perf/step_time_s", "memory/max_allocated_gib", "perf/tokens_per_sec")


@pytest.mark.parametrize("value", HUGE)
def test_a_metric_may_have_any_size(run_dir, value):  # noqa: F811
    """A loss of 1e18 and more: its tick labels were texts that could not be read back."""
    with open(run_dir / "metrics.jsonl", "a") as file:
        for step, name in enumerate(METRICS, start=401):
            file.write(json.dumps({"trainer/step": step, name: value}) + "\n")
        file.write(json.dumps({"trainer/step": value, "train/loss": 1.0}) + "\n")
    assert "Training" in page(run_dir).text


@pytest.mark.parametrize("value", [*HUGE, -1, 0, "x", None, [1], True])
def test_figures_of_the_summary_may_have_any_size(run_dir, value):  # noqa: F811
    known = json.loads((run_dir / "summary.json").read_text())
    rank = dict.fromkeys(("parameters", "gradients", "optimizer", "other", "total"), value)
    change_summary(
        run_dir, memory=[rank, value], stage0=rank, max_allocated_gib=[value, 1], predicted_gib=value, seconds=value,
        tokens=value, tokens_per_sec=value, steps=value, world_size=value, peak_tflops=value, skipped_steps=value,
        bits_per_byte={"first": value, "last": value, "validation": value}, model={"name": "x", "parameters": value},
    )  # fmt: skip
    for text in (page(run_dir).text, Page(write_report(run_dir.parent).read_text()).text):
        assert "run" in text
    for key in known:
        change_summary(run_dir, **(known | {key: value}))
        assert "Training" in page(run_dir).text


sizes = st.floats(min_value=-1e150, max_value=1e150).filter(lambda value: value == 0 or abs(value) >= 1e-150)


@given(st.lists(sizes, min_size=1, max_size=4), st.booleans())
@settings(max_examples=300, deadline=None)
def test_every_scale_has_a_few_labels_that_fit(points, zero):
    for scale in (linear(points, zero=zero), automatic(points)):
        labels = scale.labels()
        assert 1 <= len(labels) <= 9 and all(len(label) <= 24 for label in labels), labels
        assert all(-1e-6 <= scale.at(value) <= 1 + 1e-6 for value in points)


@pytest.mark.parametrize(
    ("value", "text"),
    [(9.9949e17, "999P"), (1e18, "1e18"), (-2.5e21, "-2.5e21"), (3.4e38, "3.4e38"), (999.6e15, "1e18")],
)
def test_ticks_beyond_the_suffixes_have_exponents(value, text):
    assert format_tick(value) == text


def test_words_for_any_size_are_short():
    for value in (0.0, 1.0, 1e18, 1e30, 1e150):
        for words in (format_count(value), format_bytes(value), format_seconds(value)):
            assert len(words) <= 14, words


def test_a_diverged_run_has_its_report(tmp_path):
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        for step in range(1, 60):
            metrics.log({"train/loss": 3.0 * 8.0**step}, step)
    assert "e5" in write_report(tmp_path).read_text()
