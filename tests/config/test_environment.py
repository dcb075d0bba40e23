"""What a configuration takes from the environment is used, and never written or sent: there stands its name."""

from __future__ import annotations

import pytest
import yaml

from tests.config.arguments import config
from zerokit.config.environment import shown
from zerokit.config.identity import digest
from zerokit.config.schema import Config
from zerokit.launch import launch

SECRET = "s3cr3t-of-mine"


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    monkeypatch.setenv("MINE", SECRET)
    monkeypatch.setenv("STEPS", "7")


@pytest.mark.parametrize(
    ("word", "key", "used", "written"),
    [
        ("run.name=${oc.env:MINE}", "name", SECRET, "${oc.env:MINE}"),
        ("run.name='x ${oc.env:MINE} y'", "name", f"x {SECRET} y", "x ${oc.env:MINE} y"),
        ("run.name='${oc.env:NOBODYS,${oc.env:MINE}}'", "name", SECRET, "${oc.env:NOBODYS,${oc.env:MINE}}"),
        ("run.tags=[a,'${oc.env:MINE}']", "tags", ["a", SECRET], ["a", "${oc.env:MINE}"]),
        ("run.name=${run.group} run.group=${oc.env:MINE}", "name", SECRET, "${oc.env:MINE}"),
    ],
)
def test_the_value_is_used_and_its_name_is_written(word, key, used, written):
    made = config(*word.split(" run.g")[:1], *(["run.g" + word.split(" run.g")[1]] if " run.g" in word else []))
    assert getattr(made.run, key) == used
    kept = shown(made.to_dict())
    assert kept["run"][key] == written and SECRET not in str(kept)
    assert Config.from_dict(made.to_dict()) == made  # as a worker gets it


def test_a_number_that_cannot_be_made_of_the_name():
    made = config("train.steps='${oc.decode:${oc.env:STEPS}}'", "run.name=${oc.env:MINE}")
    assert made.train.steps == 7
    assert shown(made.to_dict())["train"]["steps"] == "${oc.decode:${oc.env:STEPS}}"


def test_a_configuration_without_variables_is_written_as_it_is():
    made = config("run.name=x")
    assert shown(made.to_dict()) == made.to_dict()


def test_files_of_a_run_do_not_have_it(tmp_path):
    small = ("model=mlp", "data=synthetic", "data.task=regression", "tracker=tensorboard", "launch.nproc=1")
    words = ("train.steps=2", "state.every=2", "train.eval_samples=0", "run.group=${oc.env:MINE}")
    made = config(*small, *words, "run.name=${oc.env:MINE}", "run.tags=['${oc.env:MINE}']")
    launch(made, tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []
    kept = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert kept["run"]["name"] == "${oc.env:MINE}" and digest(kept) == digest(made.to_dict())
