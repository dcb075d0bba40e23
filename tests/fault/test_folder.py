"""An output folder that is removed or moved while a run writes into it: an end soon, the cause, no new folder."""

from __future__ import annotations

import json
import shutil
import threading
import time

import pytest

from tests.fault.runs import LONG, run, wait_for_step
from zerokit.fault.folder import FolderWatch

OUT_S = 10.0


def _later(folder, act, gone):
    wait_for_step(folder, 2)
    act(folder / "run")
    gone.append(time.time())


@pytest.mark.parametrize(("fate", "saves"), [("removed", "state.every=50"), ("moved", "state.every=0")])
def test_the_run_ends_within_10_seconds(tmp_path, fate, saves):
    elsewhere, gone = tmp_path / "elsewhere", []
    act = shutil.rmtree if fate == "removed" else lambda path: path.rename(elsewhere)
    thread = threading.Thread(target=_later, args=(tmp_path, act, gone))
    thread.start()
    words = (*LONG, saves, "state.final=false", "launch.max_restarts=2")
    outcome = run(tmp_path, *words)
    thread.join()
    assert outcome.status == 1 and time.time() - gone[0] < OUT_S
    assert "removed" in outcome.stderr or "moved" in outcome.stderr
    assert not outcome.folder.exists()  # nor made again
    if fate == "moved":
        told = json.loads((elsewhere / "summary.json").read_text())
        assert told["status"] == "failed" and "moved" in told["error"]
    words = ("scheduler=constant", "train.steps=2", saves)
    assert run(tmp_path, *words).summary["status"] == "finished"


def test_where_a_folder_is(tmp_path):
    folder = tmp_path / "a" / "logs"
    folder.mkdir(parents=True)
    with FolderWatch(folder) as watch:
        assert watch.now() == folder
        folder.parent.rename(tmp_path / "b")
        assert watch.now() == tmp_path / "b" / "logs"
        folder.mkdir(parents=True)  # another one of its name
        assert watch.now() == tmp_path / "b" / "logs"
        shutil.rmtree(tmp_path / "b")
        assert watch.now() is None
