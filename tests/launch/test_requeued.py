"""A job that Slurm starts again finds its folder, though the default folder is named by the time."""

from __future__ import annotations

import pytest

from tests.config.arguments import config
from tests.launch.test_again import leave_state
from zerokit.config.errors import ConfigError
from zerokit.launch.requeued import first_folder
from zerokit.state.folder import FOLDER
from zerokit.state.resume import candidates, check_config, started_again


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job of Slurm, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    return monkeypatch


def test_each_run_of_a_job_goes_on_in_its_own_folder(job, tmp_path):
    one, two = config("optimizer.lr=1e-3"), config("optimizer.lr=1e-4")
    assert first_folder(tmp_path / "a", one) == tmp_path / "a"
    assert first_folder(tmp_path / "b", two) == tmp_path / "b"
    job.setenv("SLURM_RESTART_COUNT", "1")
    for folder, first, cfg in (("c", "a", one), ("d", "b", two)):
        (tmp_path / folder).mkdir()  # as Hydra does
        assert first_folder(tmp_path / folder, cfg) == tmp_path / first
        assert not (tmp_path / folder).exists()
    job.setenv("SLURM_JOB_ID", "18")
    assert first_folder(tmp_path / "e", one) == tmp_path / "e", "another job"


def test_a_new_job_with_an_old_number_begins_anew(job, tmp_path):
    first_folder(tmp_path / "a", config())
    assert first_folder(tmp_path / "b", config()) == tmp_path / "b"


def test_nothing_is_noted_outside_of_slurm(job, tmp_path):
    job.delenv("SLURM_JOB_ID")
    assert first_folder(tmp_path / "a", config()) == tmp_path / "a"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_noted_is_a_warning(job, tmp_path, capsys):
    (tmp_path / "outputs").touch()
    assert first_folder(tmp_path / "a", config()) == tmp_path / "a"
    assert "would begin anew in another folder" in capsys.readouterr().err


def test_states_of_the_job_count_though_those_of_others_are_refused(job, tmp_path):
    leave_state(tmp_path, 2)
    never = config("state.resume=never", "train.steps=3").to_dict()
    with pytest.raises(ConfigError, match="two runs must not mix"):
        check_config(never, tmp_path)
    job.setenv("SLURM_RESTART_COUNT", "1")
    check_config(never, tmp_path)
    assert [path.parent.name for path in candidates(tmp_path, "never", started_again())] == [FOLDER]
