"""Files that anybody may have written: refused in one line, in bounded time and memory, and nothing reaches the
terminal raw."""

from __future__ import annotations

import json
import os
import time

import pytest
import yaml

from tests.config.arguments import configs  # noqa: F401  (imports what the commands need, once)
from zerokit.cli import run
from zerokit.config.suspect import parse_json, parse_yaml, read_text
from zerokit.record.metrics import MetricsFile, last_metrics, read_metrics
from zerokit.report import write_report
from zerokit.sweep.cell import Cell, State

DEEP = "[" * 100_000 + "]" * 100_000
DIGITS = "9" * 5000
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
ITSELF = "a: &a {b: *a}\n"
ESCAPE = "\x1b]0;mine\x07\x1b[2J"
LINES = {
    "deep": f'{{"trainer/step": 1, "train/loss": {DEEP}}}',
    "digits": f'{{"trainer/step": 1, "train/loss": {DIGITS}}}',
    "digits of a step": f'{{"trainer/step": {DIGITS}, "train/loss": 1}}',
    "many digits": f'{{"trainer/step": 1, "train/loss": {"9" * 4000}}}',
    "infinite": '{"trainer/step": 1e999, "train/loss": 1e999, "perf/tokens_per_sec": -1e999}',
    "largest": '{"trainer/step": 1, "train/loss": 1e308, "eval/loss": -1e308, "memory/max_allocated_gib": 1e308}',
    "types": '{"trainer/step": "x", "train/loss": [1], "optim/lr": {}, "perf/tokens_per_sec": true}',
    "list": "[1]",
    "number": "7",
    "escape": f'{{"trainer/step": 1, "{json.dumps(ESCAPE)[1:-1]}": 1}}',
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_metrics(tmp_path, line, capfd):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"trainer/step": 1, "train/loss": 2.5}\n' + LINES[line] + '\n{"trainer/step": 2}\n')
    assert read_metrics(path)[0]["train/loss"] == 2.5
    last_metrics(path)
    assert "Training" in write_report(tmp_path).read_text()
    cell = Cell([], tmp_path, None, state=State.RUNNING)
    assert isinstance(cell.figures().step, int)
    MetricsFile(path, after=1).close()
    assert run(["report", str(tmp_path)]) == 0
    assert "\x1b" not in "".join(capfd.readouterr())


CONTENTS = {
    "deep": DEEP,
    "digits": f'{{"steps": {DIGITS}, "status": "finished"}}',
    "rather deep": '{"a": ' * 500 + "1" + "}" * 500,
    "bomb": BOMB,
    "itself": ITSELF,
    "escape": f'{{"status": {json.dumps(ESCAPE)}, "error": {json.dumps(ESCAPE)}}}',
}


@pytest.mark.parametrize("name", ["summary.json", "sweep.json", "prediction.json", "config.yaml"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_a_file_of_a_run_or_sweep(tmp_path, name, kind, capfd):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"trainer/step": 1, "train/loss": 2.5}\n')
    (tmp_path / ("" if name == "sweep.json" else "run") / name).write_text(CONTENTS[kind])
    began = time.monotonic()
    for folder in (tmp_path / "run", tmp_path):
        assert run(["report", str(folder)]) == 0
    assert time.monotonic() - began < 10
    told = capfd.readouterr()
    assert "\x1b" not in told.out + told.err and "Traceback" not in told.err


@pytest.mark.parametrize("text", [BOMB, ITSELF, "a: " + "[" * 5000 + "]" * 5000, "a: [", "!!python/object:x.Y {}"])
def test_yaml_with_bombs(text):
    began = time.monotonic()
    with pytest.raises(ValueError):
        parse_yaml(text)
    assert time.monotonic() - began < 5


def test_ordinary_values_are_read_as_they_are():
    values = {"a": [1, -2.5, True, None, "x"], "b": {"c": {}}, "d": 10**30}
    assert parse_json(json.dumps(values)) == values
    assert parse_yaml(yaml.safe_dump(values) + "e: &x [1]\nf: *x\n") == values | {"e": [1], "f": [1]}


def test_a_pipe_and_a_giant_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no plain file"):
        read_text(tmp_path / "pipe")
    with open(tmp_path / "giant", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="longer than"):
        read_text(tmp_path / "giant")
    for name in ("metrics.jsonl", "summary.json"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "config.yaml").write_text("zero: {stage: 1}\n")
    assert read_metrics(tmp_path / "metrics.jsonl") == [] and run(["report", str(tmp_path)]) == 0


DEEPSPEED = {
    "deep": f'{{"a": {DEEP}}}',
    "digits": f'{{"train_batch_size": {DIGITS}}}',
    "infinite": '{"gradient_clipping": 1e999}',
    "no number": '{"gradient_clipping": NaN}',
    "params": '{"optimizer": {"type": "Adam", "params": 7}}',
    "params of the schedule": '{"scheduler": {"type": "WarmupLR", "params": "x"}}',
    "negative": '{"train_batch_size": -8}',
    "zero": '{"train_micro_batch_size_per_gpu": 0}',
    "list": "[1]",
}


@pytest.mark.parametrize("kind", DEEPSPEED)
def test_a_deepspeed_configuration(tmp_path, kind, capfd):
    (tmp_path / "ds.json").write_text(DEEPSPEED[kind])
    assert run(["convert", str(tmp_path / "ds.json")]) == 2
    told = capfd.readouterr()
    assert told.err.startswith("zerokit: ") and told.err.count("\n") == 1 and len(told.err) < 500, told.err


def test_a_pipe_is_no_deepspeed_configuration(tmp_path, capfd):
    os.mkfifo(tmp_path / "ds.json")
    assert run(["convert", str(tmp_path / "ds.json")]) == 2
    assert "expected a plain file" in capfd.readouterr().err


def test_interpolations_in_it_stay_text(tmp_path, capfd):
    (tmp_path / "ds.json").write_text(
        '{"train_batch_size": 8, "wandb": {"enabled": true, "project": "${oc.env:HOME}"}}'
    )
    assert run(["convert", str(tmp_path / "ds.json"), "--yaml"]) == 0
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(capfd.readouterr().out)
    (composed,) = configs("launch=cpu", f"--config-dir={tmp_path}", "experiment=mine")
    assert composed.tracker.options.project == "${oc.env:HOME}"
