from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerokit.record.metrics import (
    MetricsFile,
    bits_per_byte,
    format_bytes,
    format_count,
    format_seconds,
    printable,
    read_metrics,
    shared_unit,
)


def test_rows_come_back_with_their_step(tmp_path):
    with MetricsFile(tmp_path / "run" / "metrics.jsonl") as metrics:
        metrics.log({"train/loss": 2.5, "trainer/tokens": 8192}, step=10)
        metrics.log({"eval/loss": 2.25}, step=20)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == [
        {"trainer/step": 10, "train/loss": 2.5, "trainer/tokens": 8192},
        {"trainer/step": 20, "eval/loss": 2.25},
    ]


def test_values_that_are_not_finite_stay_valid_json_and_come_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        metrics.log({"a": math.nan, "b": math.inf, "c": -math.inf, "d": None}, step=1)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    (row,) = read_metrics(path)
    assert math.isnan(row["a"])
    assert (row["b"], row["c"], row["d"]) == (math.inf, -math.inf, None)


def test_a_number_of_another_type_is_written_as_float(tmp_path):
    class Scalar:
        def __float__(self):
            return 0.5

    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        metrics.log({"a": Scalar()}, step=1)
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["a"] == 0.5


def test_lines_outlive_a_killed_process(tmp_path):
    code = (
        "import os, sys; from zerokit.record.metrics import MetricsFile\n"
        "metrics = MetricsFile(sys.argv[1]); metrics.log({'train/loss': 1.5}, 7); os._exit(9)"
    )
    path = tmp_path / "metrics.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code, str(path)], env=environment).returncode == 9
    assert read_metrics(path) == [{"trainer/step": 7, "train/loss": 1.5}]


@given(cut=st.integers(min_value=0))
def test_a_file_cut_anywhere_keeps_its_whole_lines_and_goes_on(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        for step in range(3):
            metrics.log({"train/loss": step / 8}, step)
    data = path.read_bytes()
    cut %= len(data)
    path.write_bytes(data[:cut])
    whole = data[:cut].count(b"\n")
    # A line that lacks nothing but its line break is as good as a whole one.
    assert len(read_metrics(path)) in (whole, whole + (data[cut : cut + 1] == b"\n"))
    with MetricsFile(path) as metrics:
        metrics.log({"train/loss": 9.0}, 9)
    rows = read_metrics(path)
    assert [row["trainer/step"] for row in rows] == [*range(whole), 9]


def test_an_unreadable_line_in_the_middle_is_named(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"trainer/step": 1}\n{"trainer/st\n[1]\n{"trainer/step": 3}\n')
    with caplog.at_level(logging.WARNING):
        assert [row["trainer/step"] for row in read_metrics(path)] == [1, 3]
    assert "metrics.jsonl:2" in caplog.text and "metrics.jsonl:3" in caplog.text


def test_an_absent_file_has_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_bits_per_byte():
    assert bits_per_byte(math.log(256)) == pytest.approx(8)
    assert bits_per_byte(math.log(2) * 12, bytes_per_token=4) == pytest.approx(3)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1536 * 1024, "1.50 MiB"),
        (80 << 30, "80.0 GiB"),
        (512 << 40, "512 TiB"),
    ],
)
def test_format_bytes(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("counts", "texts"),
    [
        ([487 << 20, 1100 << 20, None], ["0.48 GiB", "1.07 GiB"]),
        ([12 << 20, 2 << 30], ["12.0 MiB", "2,048 MiB"]),
        ([0, 80 << 30], ["0.00 GiB", "80.0 GiB"]),
        ([500], ["500 B"]),
        ([None], []),
    ],
)
def test_numbers_of_bytes_of_one_table_share_a_unit_in_which_each_has_digits(counts, texts):
    unit = shared_unit(counts)
    assert [format_bytes(count, unit) for count in counts if count is not None] == texts


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (7, "7"),
        (0.125, "0.125"),
        (999, "999"),
        (999.7, "1.00k"),
        (48211, "48.2k"),
        (8.03e9, "8.03G"),
        (math.inf, "inf"),
    ],
)
def test_format_count(count, text):
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.34, "340 ms"),
        (2.34, "2.3 s"),
        (42.4, "42 s"),
        (59.7, "1 min 00 s"),
        (102.4, "1 min 42 s"),
        (3599.6, "1 h 00 min"),
        (7380, "2 h 03 min"),
        (90000, "1 d 01 h"),
        (math.inf, "unknown"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


@given(st.text())
def test_printable_leaves_no_control_character(text):
    assert all(char == "\n" or char.isprintable() for char in printable(text))


def test_printable_keeps_the_shape_of_text():
    assert printable("a\tb\r\n\x1b[31mred\u202e") == "a   b\n\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}"
