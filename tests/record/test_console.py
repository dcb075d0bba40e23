from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import xml.etree.ElementTree as ElementTree

import pytest

from zerokit.record.advice import advice
from zerokit.record.console import Console

MIB = 1 << 20


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def summary():
    rank = {"parameters": 8 * MIB, "gradients": 4 * MIB, "optimizer": 8 * MIB, "other": 30 * MIB, "total": 50 * MIB}
    return {
        "status": "finished",
        "error": None,
        "steps": 600,
        "tokens": 4915200,
        "seconds": 102.4,
        "loss": 1.38,
        "loss_first": 5.52,
        "bits_per_byte": {"first": 7.964, "last": 1.991, "validation": 2.031},
        "tokens_per_sec": 48211.0,
        "tokens_per_sec_per_gpu": 24105.0,
        "memory": [rank, {**rank, "other": 31 * MIB, "total": 51 * MIB}],
        "stage0": {"parameters": 8 * MIB, "gradients": 8 * MIB, "optimizer": 24 * MIB, "total": 40 * MIB},
        "skipped_steps": 0,
        "world_size": 2,
        "device": "cpu",
        "model": {"name": "gpt_nano", "parameters": 652288},
        "zero": {"stage": 2},
        "precision": "fp32",
        "sample": "def f(x):\n    return x",
        "command": "python -m zerokit zero=stage2",
        "files": {"report": "report.html", "metrics": "metrics.jsonl"},
    }


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("ZEROKIT_SVG", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")


def panel(summary, directory, unit=""):
    file = io.StringIO()
    Console(steps=600, unit=unit, file=file).finish(summary, directory)
    return file.getvalue()


def test_without_a_terminal_each_logged_step_is_one_plain_line():
    file = io.StringIO()
    console = Console(steps=100, file=file)
    metrics = {"train/bits_per_byte": 2.5, "perf/tokens_per_sec": 48211.0, "memory/max_allocated_gib": 0.5}
    for step in range(1, 101):
        console.progress(step, metrics if step % 50 == 0 else None)
    lines = file.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step  50/100  2.500 bits/byte  48.2k tokens/s  512 MiB  ")
    assert lines[0].endswith(" left")
    assert lines[1] == "step 100/100  2.500 bits/byte  48.2k tokens/s  512 MiB  done"
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", file.getvalue())


def test_the_loss_has_its_unit_where_bits_per_byte_are_unknown():
    file = io.StringIO()
    Console(steps=100, unit="mse", file=file).progress(10, {"train/loss": 0.12345})
    assert "0.1235 mse" in file.getvalue()


def test_a_terminal_shows_one_line_that_fits(monkeypatch):
    file = Terminal()
    console = Console(steps=100000, file=file)
    metrics = {"train/bits_per_byte": 2.5, "perf/tokens_per_sec": 48211.0, "memory/max_allocated_gib": 71.5}
    for step in range(50001, 50004):
        console.progress(step, metrics)
    console.close()
    assert "\x1b[" in file.getvalue()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert all(len(line) <= 80 and "bits/byte" in line for line in lines)
    assert "50003/100000" in lines[-1]


def test_the_panel_shows_the_figures_within_80_columns(summary, tmp_path):
    text = panel(summary, tmp_path)
    for part in (
        "finished · gpt_nano · 652k parameters · stage 2 · fp32 · 2 × cpu",
        "7.964 → 1.991 bits/byte, 2.031 on held-out data",
        "48.2k tokens/s, 24.1k per rank",
        "1 min 42 s, 600 steps, 4.92M tokens",
        "40.0 MiB, 2.00 times as much",
        "return x",
        "report.html  metrics.jsonl",
    ):
        assert part in text
    assert re.search(r"rank 1 +8.00 MiB +4.00 MiB +8.00 MiB +31.0 MiB +51.0 MiB", text)
    assert re.search(r"stage 0 +8.00 MiB +8.00 MiB +24.0 MiB", text)
    assert {len(line) for line in text.splitlines()} == {80}


def test_what_a_process_grew_by_is_not_called_the_memory_that_was_predicted(summary, tmp_path):
    summary |= {"max_allocated_gib": [0.5, 0.25], "predicted_gib": 0.125}
    assert "512 MiB by the process, 128 MiB predicted for tensors" in panel(summary | {"device": "cpu"}, tmp_path)
    assert "512 MiB of memory, 128 MiB predicted" in panel(summary | {"device": "NVIDIA H100"}, tmp_path)


def test_a_run_that_the_host_limited_says_what_helps(summary, tmp_path):
    assert "train.cuda_graph=true" in panel(summary | {"host_limits": True}, tmp_path)
    assert "cuda_graph" not in panel(summary | {"host_limits": False}, tmp_path)


def test_throughput_is_of_samples_where_data_has_no_tokens(summary, tmp_path):
    text = panel(summary | {"counted": "samples"}, tmp_path)
    assert "48.2k samples/s" in text and "4.92M samples" in text and "tokens/s" not in text


def test_the_panel_of_another_task_has_its_unit(summary, tmp_path):
    assert "5.52 → 1.38 mse" in panel({**summary, "bits_per_byte": None}, tmp_path, unit="mse")


def test_hostile_text_is_shown_and_not_obeyed(summary, tmp_path):
    summary |= {"status": "failed", "error": "[/oops] \x1b]0;t\x07"}
    summary["sample"] = "[bold red]x[/bold red] [/] \x1b[31m\x07 [link=file:///]y"
    text = panel(summary, tmp_path)
    assert "[bold red]x[/bold red] [/]" in text and "[link=file:///]y" in text and "[/oops]" in text
    assert "\x1b" not in text and "\x07" not in text


def test_a_failure_names_cause_and_what_to_do(summary, tmp_path):
    summary |= {"status": "failed", "error": "rank 1: OutOfMemoryError: CUDA out of memory."}
    text = panel(summary, tmp_path)
    assert "failed" in text and "rank 1: OutOfMemoryError: CUDA out of memory." in text
    assert "zero=stage3" in text


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_without_any_figures_has_a_panel(status, tmp_path):
    assert status in panel({"status": status, "error": "boom"}, tmp_path)


def test_a_loss_that_is_not_finite_is_shown(summary, tmp_path):
    summary["bits_per_byte"] |= {"last": math.nan, "validation": None}
    assert "7.964 → nan bits/byte" in panel(summary, tmp_path)


def test_leaving_the_console_by_an_error_gives_the_terminal_its_cursor_back():
    file = Terminal()
    with pytest.raises(RuntimeError), Console(steps=10, file=file) as console:
        console.progress(1, {"train/loss": 1.0})
        raise RuntimeError
    assert file.getvalue().rindex("\x1b[?25h") > file.getvalue().rindex("\x1b[?25l")


def test_interruption_has_its_own_advice():
    assert "same command" in advice({"status": "interrupted", "error": "out of memory"})
    assert "goes on" in advice({"status": "interrupted", "state": "step-00000003"})
    assert "traceback" in advice({"status": "failed", "error": "KeyError: 'x'"})


def test_many_ranks_are_shortened_to_the_fullest(summary, tmp_path):
    ranks = [{**summary["memory"][0], "total": (50 + rank) * MIB} for rank in range(64)]
    text = panel({**summary, "memory": ranks}, tmp_path)
    assert "rank 63" in text and "57 more" in text and "rank 12 " not in text


def test_an_output_that_knows_only_ascii_does_not_fail(summary, tmp_path):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    Console(steps=10, file=file).finish(summary, tmp_path)
    file.flush()
    assert b"bits/byte" in raw.getvalue()


def test_warnings_become_notes_without_markup():
    file = io.StringIO()
    logger = logging.getLogger("tests.console")
    handler = Console(steps=10, file=file).handler()
    logger.addHandler(handler)
    logger.warning("[red]%s", "wandb is off")
    logger.removeHandler(handler)
    assert file.getvalue() == "warning: [red]wandb is off\n"


def test_the_picture_is_an_svg_that_loads_nothing(summary, tmp_path, monkeypatch):
    monkeypatch.setenv("ZEROKIT_SVG", str(tmp_path / "docs" / "run.svg"))
    console = Console(steps=600, file=io.StringIO())
    for step in range(10, 601, 10):
        console.progress(step, {"train/bits_per_byte": 8 - step / 100})
    console.finish(summary, tmp_path)
    text = (tmp_path / "docs" / "run.svg").read_text()
    ElementTree.fromstring(text)
    shown = re.sub(r"\s+", " ", "".join(re.findall(r">([^<]*)<", text)).replace("&#160;", " "))
    assert "zero=stage2" in shown and "600/600" in shown and "held-out" in shown
    assert not re.search(r"url\(.?http|@font-face|@import|href=", text)


def test_the_summary_is_left_as_it_was(summary, tmp_path):
    before = json.dumps(summary)
    panel(summary, tmp_path)
    assert json.dumps(summary) == before


def test_a_reader_that_goes_away_ends_nothing():
    reader, writer = os.pipe()
    with open(writer, "w") as file:
        console = Console(10, file=file)
        console.note("seen")
        os.close(reader)
        for step in range(3):
            console.note("unseen")
            console.progress(step, {"train/loss": 1.0})
