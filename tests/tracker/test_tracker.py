from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from zerokit.config.registry import Choice, build, names, options_type
from zerokit.tracker import RunInfo
from zerokit.tracker.wandb import WandbOptions

KEY = "0123456789" * 4
SCRIPT = """
import json, sys, time
from pathlib import Path
from zerokit.config.registry import Choice, build, options_type
from zerokit.tracker import RunInfo

config = {"optimizer": {"name": "adamw", "lr": 0.001}}
info = RunInfo(Path(sys.argv[1]), config, "mine", "sweep", tags=["stage2", "fp32"])
import wandb
begin = time.monotonic()
tracker = build("tracker", Choice("wandb", options_type("tracker", "wandb")()), run=info)
for step in range(1, 4):
    tracker.log({"train/loss": 4.0 / step, "trainer/tokens": step * 100}, step)
tracker.finish({"status": "finished", "loss": 1.5, "zero": {"stage": 2}, "sample": "x" * 1000, "memory": [{}]})
tracker.finish({})
print(json.dumps({"seconds": time.monotonic() - begin}))
"""


def environment(home, **variables):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_") and key != "NETRC"}
    quiet = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
    return {**kept, **quiet, "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path), **variables}


def train(tmp_path, **variables):
    """Run SCRIPT; return its result and the records of the offline run."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run")]
    (tmp_path / "run").mkdir()
    env = environment(tmp_path, **variables)
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (file,) = folder.glob("*.wandb")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(inspect, env=env, capture_output=True, text=True, check=True).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    return result, {
        kind: [r[kind] for r in records if r["type"] == kind] for kind in ("run", "metric", "history", "summary")
    }


def test_without_a_key_everything_is_recorded_offline_and_nothing_is_printed(tmp_path):
    result, records = train(tmp_path)
    run = records["run"][0]
    assert run["config"]["update"]["optimizer"] == {"name": "adamw", "lr": 0.001}
    assert (run["display_name"], run["run_group"], run["job_type"]) == ("mine", "sweep", "train")
    assert (run["tags"], run["project"]) == (["stage2", "fp32"], "zerokit")
    axes = [metric.get("name") for metric in records["metric"]]
    assert {"trainer/step", "trainer/tokens"} <= set(axes)
    assert {metric.get("glob_name"): metric.get("step_metric") for metric in records["metric"]}["*"] == "trainer/step"
    rows = [(row["item"]["trainer/step"], row["item"]["train/loss"]) for row in records["history"]]
    assert rows == [(1, 4), (2, 2), (3, pytest.approx(4 / 3))]
    final = [update for update in records["summary"] if "final/loss" in update["update"]][0]["update"]
    assert (final["final/status"], final["final/loss"], final["final/zero.stage"]) == ("finished", 1.5, 2)
    assert "final/sample" not in final
    assert result.stderr == "" and len(result.stdout.splitlines()) == 1


def test_a_server_that_cannot_be_reached_costs_less_than_5_seconds_and_one_line(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for attempt in ("first", "again"):  # what a busy machine adds, it adds once
        begin = time.monotonic()
        (tmp_path / attempt).mkdir()
        result, records = train(tmp_path / attempt, WANDB_API_KEY=KEY, WANDB_BASE_URL=url)
        seconds, whole = json.loads(result.stdout)["seconds"], time.monotonic() - begin
        if seconds < 5:
            break
    assert seconds < 5
    assert whole < 15
    assert len(result.stderr.splitlines()) == 1 and "wandb sync" in result.stderr
    assert len(records["history"]) == 3


class Settings(SimpleNamespace):
    model_fields = {"silent": None, "init_timeout": None, "finish_timeout": None}
    base_url = "https://server.example"


class Fake:
    """Stands for the module wandb and its runs; the calls named in `broken` raise."""

    Settings = Settings

    def __init__(self, *broken):
        self.broken, self.calls, self.summary = broken, [], {}

    def setup(self):
        return SimpleNamespace(settings=Settings())

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append((name, options))
            if name in self.broken or f"{name} {options.get('mode')}" in self.broken:
                raise RuntimeError(f"{name} is broken\nsecond line")
            return self

        return call

    def modes(self):
        return [options["mode"] for name, options in self.calls if name == "init"]


@pytest.fixture
def fake(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    # Set here so that what the tracker sets is taken back after the test.
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")

    def install(*broken):
        module = Fake(*broken)
        monkeypatch.setitem(sys.modules, "wandb", module)
        return module

    return install


def start(tmp_path, **options):
    return build("tracker", Choice("wandb", WandbOptions(**options)), run=RunInfo(tmp_path, {"a": 1}))


@pytest.mark.parametrize("broken", ["setup", "init", "define_metric", "log", "finish", "Settings"])
def test_no_failure_of_wandb_reaches_the_training(broken, fake, tmp_path, caplog):
    module = fake(broken)
    if broken in ("setup", "Settings"):
        setattr(module, broken, None)
    with caplog.at_level(logging.WARNING):
        tracker = start(tmp_path)
        for step in range(5):
            tracker.log({"train/loss": 1.0}, step)
        tracker.finish({"status": "finished"})
    (record,) = caplog.records
    assert "wandb is off" in record.getMessage() and "\n" not in record.getMessage()
    assert [name for name, _ in module.calls].count("log") == {"log": 1, "finish": 5}.get(broken, 0)


def test_a_run_that_goes_on_is_the_same_in_wandb(fake, tmp_path):
    module = fake()
    module.id = "made-by-wandb"
    first = start(tmp_path)
    again = build("tracker", Choice("wandb", WandbOptions()), run=RunInfo(tmp_path, {}, id=first.id))
    assert (first.id, again.id) == ("made-by-wandb", "made-by-wandb")
    told = [(options["id"], options["resume"]) for name, options in module.calls if name == "init"]
    assert told == [(None, None), ("made-by-wandb", "allow")]


def test_a_run_whose_wandb_is_off_keeps_its_id(fake, tmp_path):
    fake("init")
    assert build("tracker", Choice("wandb", WandbOptions()), run=RunInfo(tmp_path, {}, id="kept")).id == "kept"


def test_a_missing_package_is_one_warning(monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with caplog.at_level(logging.WARNING):
        start(tmp_path).log({"a": 1}, 1)
    assert len(caplog.records) == 1


def test_the_keyboard_still_interrupts(fake, tmp_path):
    module = fake()
    tracker = start(tmp_path)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    module.log = interrupted
    with pytest.raises(KeyboardInterrupt):
        tracker.log({"a": 1}, 1)


def test_the_mode_follows_the_key(fake, tmp_path, monkeypatch):
    module = fake()
    start(tmp_path)
    assert module.modes() == ["offline"]
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    start(tmp_path)
    assert module.modes()[-1] == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    start(tmp_path)
    assert module.modes()[-1] == "offline"
    start(tmp_path, mode="online")
    assert module.modes()[-1] == "online"


@pytest.mark.parametrize(("host", "mode"), [("server.example", "online"), ("other.example", "offline")])
def test_a_key_in_netrc_counts_for_its_server_only(host, mode, fake, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {host}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    module = fake()
    start(tmp_path)
    assert module.modes() == [mode]


def test_disabled_starts_nothing(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    module = fake()
    tracker = start(tmp_path)
    tracker.log({"a": 1}, 1)
    tracker.finish({})
    assert module.calls == []


def test_when_online_fails_the_run_goes_on_offline(fake, tmp_path, caplog):
    module = fake("init online")
    with caplog.at_level(logging.WARNING):
        tracker = start(tmp_path, mode="online")
        tracker.log({"train/loss": 1.0}, 3)
    assert module.modes() == ["online", "offline"]
    assert module.calls[-1] == ("log", {"step": 3})
    assert len(caplog.records) == 1


def test_a_failed_run_is_marked_as_failed(fake, tmp_path):
    module = fake()
    start(tmp_path).finish({"status": "failed", "error": "boom"})
    assert module.calls[-1] == ("finish", {"exit_code": 1})
    assert module.summary["final/error"] == "boom"


@pytest.mark.parametrize("option", ["init_timeout", "finish_timeout"])
def test_a_timeout_must_be_positive(option):
    with pytest.raises(ValueError, match=f"{option} must be above 0"):
        WandbOptions(**{option: 0})


def test_none_tracks_nothing(tmp_path):
    tracker = build("tracker", Choice("none", options_type("tracker", "none")()), run=RunInfo(tmp_path, {}))
    tracker.log({"a": 1.0}, 1)
    tracker.finish({})
    assert list(tmp_path.iterdir()) == []


def test_listing_the_trackers_imports_neither_wandb_nor_torch():
    code = (
        "import sys; from zerokit.config.registry import names;"
        "assert names('tracker') == ['none', 'tensorboard', 'wandb'];"
        "assert not {'torch', 'wandb', 'tensorboard'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert {"none", "wandb"} <= set(names("tracker"))
