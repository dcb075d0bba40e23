from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.commands import zerokit
from zerokit.cli.schedule import WIDTH, draw, picture

SVG = "{http://www.w3.org/2000/svg}"


def test_the_curve_goes_from_edge_to_edge_and_no_line_is_too_long():
    lines = draw([step / 99 for step in range(100)])
    assert max(map(len, lines)) <= WIDTH
    plot = [line.partition("┤")[2] for line in lines if "┤" in line]
    assert plot[-1][0] != " " and len(plot[0]) == max(map(len, plot))
    left_edges = [len(row) - len(row.lstrip()) for row in plot]
    assert left_edges == sorted(left_edges, reverse=True), "a rising line rises"


@pytest.mark.parametrize("curve", [[0.0], [0.0] * 50, [1e-5] * 3, [1.0, 0.0] * 40])
def test_any_curve_is_drawn(curve):
    lines = draw(curve)
    assert max(map(len, lines)) <= WIDTH
    assert any("\u2800" < character <= "\u28ff" for line in lines for character in line)
    ET.fromstring(picture({"learning rate": [("x", curve)]}))


def test_the_picture_holds_the_values():
    root = ET.fromstring(picture({"learning rate": [("a<b", [0.0, 1.0, 0.0])], "momentum": [("m", [0.9, 0.8, 0.9])]}))
    lines = root.findall(f"{SVG}polyline")
    points = [[tuple(map(float, p.split(","))) for p in line.get("points").split()] for line in lines]
    (x0, low), (x1, high), (x2, end) = points[0]
    assert x0 < x1 < x2 and high < low == end
    assert "a<b" in [text.text for text in root.iter(f"{SVG}text")]


def test_the_command_draws_and_starts_no_run(tmp_path):
    words = ("scheduler=one_cycle", "scheduler.cycle_first_step_size=20", "train.steps=50", "--plot-schedule")
    result = zerokit(*words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "learning rate, scheduler=one_cycle, 50 steps" in result.stdout
    assert "momentum, scheduler=one_cycle, 50 steps" in result.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["schedule.svg"]
    assert max(map(len, result.stdout.splitlines())) <= WIDTH


def test_a_sweep_is_drawn_in_one_picture(tmp_path):
    result = zerokit("-m", "scheduler=cosine,linear", "train.steps=9", "--plot-schedule", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "scheduler=0: cosine" in result.stdout and "scheduler=1: linear" in result.stdout
    assert len(ET.parse(tmp_path / "schedule.svg").getroot().findall(f"{SVG}polyline")) == 2


def test_a_picture_that_cannot_be_written_is_one_line_and_status_2(tmp_path):
    (tmp_path / "schedule.svg").mkdir()
    result = zerokit("--plot-schedule", "train.steps=5", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert "schedule.svg" in result.stderr
