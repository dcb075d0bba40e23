from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import environment, python
from tests.sweep.cell_worker import FAILS_ONCE, FINE, KILLED, RAISES, SHOWS, SLEEPS

COMMAND = ("-m", "tests.sweep.cell_worker", "-m", "launch.nproc=1", "launch.device=cpu", "train.steps=4")
COMMAND += ("scheduler=constant", "hydra.sweep.dir=sweep", "estimate.run=false")


def sweep(cwd: Path, *words: str):
    return python(*COMMAND, *words, cwd=cwd, timeout=120)


def cells(folder: Path) -> dict[str, dict]:
    """What sweep.json says of each cell, by label."""
    return {cell["label"]: cell for cell in json.loads((folder / "sweep" / "sweep.json").read_text())["cells"]}


def states(folder: Path) -> dict[str, str]:
    return {label: cell["state"] for label, cell in cells(folder).items()}


def test_one_failing_cell_ends_no_other_and_the_same_command_runs_what_is_missing(tmp_path):
    words = f"train.seed={FINE},{RAISES},{KILLED},{FAILS_ONCE}"
    first = sweep(tmp_path, words, "zero=stage0")
    assert first.returncode == 1, first.stderr
    assert states(tmp_path) == {
        f"seed={FINE}": "finished",
        f"seed={RAISES}": "failed",
        f"seed={KILLED}": "failed",
        f"seed={FAILS_ONCE}": "failed",
    }
    assert f"seed={RAISES}: rank 0 of 1 failed: ValueError: the cause\n" in first.stdout
    assert f"seed={KILLED}: killed by signal 9 (SIGKILL; out of memory?)" in first.stdout
    assert "The same command runs what is missing; finished cells are skipped." in first.stdout
    assert max(len(line) for line in first.stdout.splitlines() if line.startswith(("cell", "seed=0"))) <= 80
    fine = cells(tmp_path)[f"seed={FINE}"]["folder"]
    began = (tmp_path / "sweep" / fine / "metrics.jsonl").stat().st_mtime_ns

    again = sweep(tmp_path, "zero=stage0", words)
    assert again.returncode == 1
    assert states(tmp_path)[f"seed={FAILS_ONCE}"] == "finished"
    assert re.search(rf"seed={FINE} +finished \*", again.stdout), "it had finished before"
    assert (tmp_path / "sweep" / fine / "metrics.jsonl").stat().st_mtime_ns == began
    failed = tmp_path / "sweep" / cells(tmp_path)[f"seed={FAILS_ONCE}"]["folder"]
    assert "only at first" in (failed / "attempts" / "1" / "logs" / "output.log").read_text()
    assert len((failed / "metrics.jsonl").read_text().splitlines()) == 4, "one attempt only"
    for part in ("ValueError: the cause", "killed by signal 9", "zero=stage0"):
        assert part in (tmp_path / "sweep" / "report.html").read_text()
    assert (tmp_path / "sweep" / "report.md").exists()


def test_a_changed_configuration_is_another_cell_and_other_views_are_the_same(tmp_path):
    assert sweep(tmp_path, "zero=stage0,stage1").returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    dry = sweep(tmp_path, "zero=stage0,stage1", "sweep.dry_run=true")
    assert (dry.returncode, dry.stdout.count("finished *")) == (0, 2), dry.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    same = sweep(tmp_path, "zero=stage0,stage1", "run.tags=[a]", "sweep.parallel=2", "tracker=none")
    assert same.stdout.count("finished *") == 2
    more = sweep(tmp_path, "zero=stage0,stage1", "train.steps=3")
    assert "finished *" not in more.stdout and more.returncode == 0
    afresh = sweep(tmp_path, "zero=stage0,stage1", "sweep.resume=never")
    assert "finished *" not in afresh.stdout
    assert len(list((tmp_path / "sweep").glob("stage0-*/attempts/1/summary.json"))) == 1


def test_the_same_command_has_the_same_folder_and_each_cell_its_own_command(tmp_path):
    command = [word for word in COMMAND if not word.startswith("hydra.")]
    for words in (("zero=stage0,stage1", "train.seed=0"), ("train.seed=0", "zero=stage0,stage1", "sweep.parallel=2")):
        assert python(*command, *words, cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert folder.name.startswith("zero-")
    summaries = [json.loads(file.read_text()) for file in sorted(folder.glob("*/summary.json"))]
    assert [summary["command"].split("cell_worker.py ", 1)[1] for summary in summaries] == [
        "launch.nproc=1 launch.device=cpu train.steps=4 scheduler=constant estimate.run=False "
        f"zero=stage{stage} train.seed=0"
        for stage in (0, 1)
    ]
    assert all(folder.name in (file.parent / "config.yaml").read_text() for file in folder.glob("*/summary.json"))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_cells_side_by_side_have_cores_of_their_own(tmp_path):
    result = sweep(tmp_path, f"train.seed={SHOWS}", "zero=stage0,stage1", "sweep.parallel=2")
    assert result.returncode == 0, result.stderr
    places = [file.read_text().split() for file in (tmp_path / "sweep").glob("*/place")]
    shares = [set(cores.split(",")) for _, cores, _ in places]
    assert len(shares) == 2 and not shares[0] & shares[1]


def test_an_interrupt_ends_the_cells_and_the_report_is_written(tmp_path):
    words = [sys.executable, *COMMAND, f"train.seed={FINE},{SLEEPS}", "zero=stage0"]
    process = subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
    lines = []
    while f"seed={SLEEPS}: started" not in (lines[-1] if lines else ""):
        lines.append(process.stdout.readline())
    second = python(*COMMAND, f"train.seed={FINE},{SLEEPS}", "zero=stage0", cwd=tmp_path)
    assert (second.returncode, second.stderr.count("\n")) == (2, 1)
    assert f"This sweep is running already in {tmp_path / 'sweep'} (process {process.pid})" in second.stderr
    deadline = time.monotonic() + 30
    while not list((tmp_path / "sweep").glob("*/config.yaml")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(rf"seed={SLEEPS} +interrupted", rest)
    assert "The same command runs what is missing" in rest
    assert states(tmp_path) == {f"seed={FINE}": "finished", f"seed={SLEEPS}": "interrupted"}
    assert (tmp_path / "sweep" / "report.html").exists()


SMALL = ("model.dim=64", "model.heads=4", "data.seq_len=32", "estimate.run=true", "estimate.memory_gib=0.02")
"""Sizes for which one layer fits into that memory and sixty do not."""


def test_cells_that_cannot_fit_are_listed_and_skipped_unless_forced(tmp_path):
    words = ("model.layers=1,60", *SMALL)
    dry = sweep(tmp_path, *words, "sweep.dry_run=true")
    assert dry.returncode == 0, dry.stderr
    assert re.search(r"layers=1 +waiting +\d+ KiB|layers=1 +waiting +[\d.]+ MiB", dry.stdout)
    assert re.search(r"layers=60 +too large +[\d.]+ MiB", dry.stdout)
    assert re.search(r"layers=60: predicted [\d.]+ MiB of a rank, which may take 20.5 MiB", dry.stdout)
    assert "sweep.force=true runs what is too large all the same." in dry.stdout
    assert not list(tmp_path.iterdir()), "nothing is left behind"

    real = sweep(tmp_path, *words)
    assert real.returncode == 0
    assert states(tmp_path) == {"layers=1": "finished", "layers=60": "too large"}
    assert cells(tmp_path)["layers=60"]["predicted_gib"] > 0.02
    assert "It was not started." in (tmp_path / "sweep" / "report.html").read_text()

    forced = sweep(tmp_path, *words, "sweep.force=true")
    assert states(tmp_path) == {"layers=1": "finished", "layers=60": "finished"}, forced.stdout


def test_a_cell_whose_words_cannot_be_run_together_is_listed_and_the_others_run(tmp_path):
    result = sweep(tmp_path, "optimizer=onebit_adam,adamw", "zero=stage3")
    assert result.returncode == 1, result.stderr
    assert states(tmp_path) == {"onebit_adam": "failed", "adamw": "finished"}
    reason = cells(tmp_path)["onebit_adam"]["reason"]
    assert reason.startswith("optimizer=onebit_adam does not work at zero.stage=3")
    first, last = [line for line in result.stdout.splitlines() if reason in line]
    assert (first, last) == (f"[1/2] onebit_adam: failed: {reason}", f"onebit_adam: {reason}")
    assert reason in (tmp_path / "sweep" / "report.html").read_text()


def test_words_that_are_wrong_in_every_cell_end_the_sweep_at_once(tmp_path):
    for words in (["optimizer=onebit_adam", "zero=stage2,stage3"], ["zero=stage0,stage1", "train.bogus=1"]):
        result = sweep(tmp_path, *words)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "zero=stage0,stage1", "sweep.dry_run=true", "hydra/launcher=basic"], "leave out hydra/launcher=basic"),
        (["sweep.dry_run=true"], "sweep.dry_run=true lists the cells of a sweep: add -m."),
        (["-m", "zero=stage0,stage1", "sweep.parallel=0"], "sweep.parallel must be at least 1, got 0."),
        (["-m", "zero=stage0,stage1", "sweep.paralel=2"], "Unknown key sweep.paralel. Did you mean sweep.parallel?"),
    ],
)
def test_a_sweep_that_makes_no_sense_ends_with_one_line(tmp_path, words, message):
    result = python("-m", "zerokit", *words, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert message in result.stderr


COUNTED = """
import zerokit
import zerokit.estimate.choose as module
import zerokit.launch

choose = module.choose

def counted(*words):
    with open("chosen", "a") as file:
        file.write("once ")
    return choose(*words)

module.choose = counted
zerokit.launch.WORKER = "tests.sweep.cell_worker:run"
zerokit.main()
"""


def test_what_zero_auto_chooses_for_the_forecast_is_what_runs(tmp_path):
    (tmp_path / "counted.py").write_text(COUNTED)
    words = ("zero=auto,stage0", "debug=tiny", "data=synthetic", "estimate.run=true", "batch.micro=1")
    result = python("counted.py", *COMMAND[2:], *words, cwd=tmp_path, timeout=120)
    assert (result.returncode, (tmp_path / "chosen").read_text()) == (0, "once "), result.stdout
    folder = tmp_path / "sweep" / cells(tmp_path)["auto"]["folder"]
    prediction = json.loads((folder / "prediction.json").read_text())
    assert prediction["choices"][0]["predicted_gib"] == cells(tmp_path)["auto"]["predicted_gib"]
