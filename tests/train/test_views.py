"""The status of a run depends on its training alone: not on a report, tracker, log, terminal or picture of it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from tests.commands import environment, python
from tests.fault.runs import SMALL
from zerokit.callbacks import Callback
from zerokit.record.summary import read_summary, write_summary
from zerokit.report.ended import mark_ended
from zerokit.train.callbacks import Shown

WORDS = (*SMALL, "train.steps=4", "estimate.run=false", "hydra.run.dir=run")
SCRIPT = """
from dataclasses import dataclass
import zerokit, zerokit.report
from zerokit.record import console

@dataclass
class Options:
    fails_at: str = ""
    '''Method that raises.'''

class Tracker:
    id = None
    def __init__(self, options, run):
        self.options = options
        self.may_fail("start")
    def may_fail(self, here):
        if self.options.fails_at == here:
            raise RuntimeError(f"tracker: {here}")
        if self.options.fails_at == f"exit {here}":
            raise SystemExit(7)
    def log(self, metrics, step):
        self.may_fail("log")
    def finish(self, summary):
        self.may_fail("finish")

def broken(*_):
    raise RecursionError("no picture")

zerokit.register("tracker", "fragile", Options)(Tracker)
zerokit.report.render = broken
console.final_panel = broken
zerokit.main()
"""


@pytest.mark.parametrize("event", ["start", "log", "finish", "exit log"])
def test_a_broken_tracker_report_and_panel_are_warnings(tmp_path, event):
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [word for word in WORDS if not word.startswith("tracker=")]
    result = python("script.py", *words, "tracker=fragile", f"tracker.fails_at={event}", cwd=tmp_path, timeout=120)
    summary = read_summary(tmp_path / "run")
    assert (result.returncode, summary["status"], summary["error"]) == (0, "finished", None), result.stderr
    assert summary["weights_sha256"]
    log = (tmp_path / "run" / "logs" / "rank0.log").read_text()
    assert log.count("the tracker is off for the rest of this run") == 1
    assert log.count("no report: RecursionError: no picture") == 1
    assert log.count("the terminal is off for the rest of this run: RecursionError") == 1
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize("stream", [">/dev/full", ">&-", ">&- 2>&- <&-", "| head -c 1", "2>/dev/full"])
def test_a_terminal_that_cannot_be_written_to(tmp_path, stream):
    command = f'"$0" -m zerokit {" ".join(WORDS)} {stream}; echo "${{PIPESTATUS[0]}}" > status'
    subprocess.run(["bash", "-c", command, sys.executable], cwd=tmp_path, env=environment(), timeout=120)
    assert (tmp_path / "status").read_text().split() == ["0"]
    assert read_summary(tmp_path / "run")["status"] == "finished"
    for file in (tmp_path / "run").rglob("*.json*"):  # no line went into a file that took the place of the terminal
        assert "samples/s" not in file.read_text()


@pytest.mark.parametrize("stream", [">/dev/full"])
def test_a_command_whose_output_is_lost_says_so(tmp_path, stream):
    result = subprocess.run(["bash", "-c", f'"$0" -m zerokit --cfg job {stream}', sys.executable], cwd=tmp_path,
                            env=environment(), capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (result.returncode, result.stderr) == (
        1,
        "zerokit: the output cannot be written: No space left on device.\n",
    )


def test_a_log_that_cannot_be_opened(tmp_path):
    (tmp_path / "run" / "logs" / "rank0.log").mkdir(parents=True)
    result = python("-m", "zerokit", *WORDS, cwd=tmp_path, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("there is no log: ") == 1
    assert read_summary(tmp_path / "run")["status"] == "finished"


def test_what_only_shows_is_called_no_more_after_an_error(caplog):
    calls = []

    class Fragile(Callback):
        def on_step(self, step, metrics):
            calls.append(step)
            raise ValueError("two\nlines")

    shown = Shown(Fragile, "the picture")
    for step in (1, 2):
        shown.on_step(step, None)
    shown.on_end({})
    assert calls == [1]
    (record,) = caplog.records
    assert record.getMessage() == "the picture is off for the rest of this run: ValueError: two"


def test_a_summary_holds_whatever_it_is_given(tmp_path):
    write_summary(tmp_path, {"nan": float("nan"), "list": [float("inf"), 1.5], "path": tmp_path, "by": {1: (2,)}})
    kept = json.loads((tmp_path / "summary.json").read_text())
    assert kept == {"nan": None, "list": [None, 1.5], "path": str(tmp_path), "by": {"1": [2]}}


def test_how_a_run_ended_does_not_depend_on_its_report(tmp_path, monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("zerokit.report.render", broken)
    (tmp_path / "config.yaml").write_text("a: 1\n")
    with caplog.at_level(logging.WARNING):
        mark_ended(tmp_path, "failed", "the cause")
    assert read_summary(tmp_path) == {"status": "failed", "error": "the cause"}
    assert caplog.text.count("no report: ZeroDivisionError") == 1
