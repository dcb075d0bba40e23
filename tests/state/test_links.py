"""Links in the folder of a run, such as one that came from elsewhere: nothing is written through them."""

from __future__ import annotations

import json

import pytest

from tests.config.arguments import config
from zerokit.config.errors import ConfigError
from zerokit.config.files import remove_drafts, replace_text
from zerokit.launch import launch
from zerokit.record.metrics import MetricsFile
from zerokit.record.summary import write_summary
from zerokit.report import write_report

PLACES = ("metrics.jsonl", "summary.json", "report.html", "config.yaml", "prediction.json", "logs/rank0.log",
          "logs/run.lock", "logs/rank1.out", "logs/rank0.stacks", "state", "logs", "profile")  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_run_refuses_a_folder_with_a_link(tmp_path, place):
    precious = tmp_path / "precious"
    if place in ("state", "logs", "profile"):
        precious.mkdir()
    else:
        precious.write_text("precious")
    link = tmp_path / "run" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(precious)
    with pytest.raises(ConfigError, match=f"{place} is a link, and nothing is written through links"):
        launch(config("model=mlp", "data=synthetic", "data.task=regression", "tracker=none"), tmp_path / "run")
    assert list(precious.iterdir()) == [] if precious.is_dir() else precious.read_text() == "precious"


@pytest.mark.parametrize("name", ["report.html", "summary.json"])
def test_a_link_is_replaced_and_not_followed(tmp_path, name):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("zero: {stage: 1}\n")
    (folder / name).symlink_to(precious)
    write_summary(folder, {"status": "finished"}) if name == "summary.json" else write_report(folder)
    assert precious.read_text() == "precious" and not (folder / name).is_symlink()


def test_metrics_are_not_written_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("precious\n")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError):
        MetricsFile(tmp_path / "metrics.jsonl").log({}, 1)
    assert (tmp_path / "precious").read_text() == "precious\n"


def test_drafts_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    for name in (".report.html-123.tmp", ".summary.json-9.tmp", ".mine.tmp", "x-1.tmp", ".notes-1"):
        (tmp_path / name).touch()
    remove_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", ".notes-1", "x-1.tmp"]


def test_a_file_that_cannot_be_replaced_leaves_no_draft(tmp_path):
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(OSError, match=r"summary\.json"):
        replace_text(tmp_path / "summary.json", json.dumps({}))
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
