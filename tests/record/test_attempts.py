"""A second run in a named folder keeps what the first has left, but for the lock and files of others."""

from __future__ import annotations

from tests.config.arguments import config
from zerokit.launch import launch
from zerokit.record.attempts import left_by_run, set_aside

FAKE = "tests.launch.fake_worker:run"
LEFT = ("summary.json", "metrics.jsonl", "report.html", "prediction.json", "model/model.safetensors", "logs/rank0.log")


def test_a_second_run_without_states_sets_the_first_aside(tmp_path, capfd):
    (tmp_path / "model").mkdir()
    (tmp_path / "logs").mkdir()
    for name in (*LEFT, "notes.txt"):
        (tmp_path / name).write_text(f"the first run's {name}")
    launch(config(), tmp_path, FAKE)
    assert "its files are in attempts/1" in capfd.readouterr().out
    assert all((tmp_path / "attempts/1" / name).read_text() == f"the first run's {name}" for name in LEFT)
    assert (tmp_path / "notes.txt").exists() and not (tmp_path / "summary.json").exists()
    assert (tmp_path / "logs/run.lock").exists()


def test_numbers_go_on_whatever_is_missing(tmp_path):
    (tmp_path / "attempts/7").mkdir(parents=True)
    (tmp_path / "config.yaml").touch()
    assert set_aside(tmp_path, left_by_run(tmp_path)) == tmp_path / "attempts/8"
    assert set_aside(tmp_path, left_by_run(tmp_path)) is None
