"""The command that a run prints when it ended early: pasted into a shell, it goes on in the same folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.commands import environment
from tests.config.arguments import config
from zerokit.launch.again import tell_how_to_go_on
from zerokit.state.folder import FOLDER, step_path
from zerokit.state.manifest import NAME, Manifest

PROGRAM = "zerokit/__main__.py"


def leave_state(run_dir: Path, step: int) -> None:
    path = step_path(run_dir / FOLDER, step)
    path.mkdir(parents=True)
    (path / NAME).write_bytes(Manifest((), {}, {"step": step}).encode())


@pytest.mark.parametrize("name", ["plain", "it's a=b, \"${c}\" $HOME \\ \\'é[1]\\"])
def test_the_command_pasted_into_a_shell_is_for_the_same_folder(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    leave_state(tmp_path / name, 3)
    words = [PROGRAM, "model=mlp", "data=synthetic", "data.task=regression", "hydra.run.dir=${now:%H}",
             "state.resume=never", "run.tags=['a b']"]  # fmt: skip
    tell_how_to_go_on(config(*words[1:]), tmp_path / name, words)
    told, command = capsys.readouterr().err.splitlines()
    assert told == "zerokit: to go on after step 3:" and command.startswith("python -m zerokit model=mlp ")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    pasted = subprocess.run(
        ["bash", "-c", f"{command} --cfg hydra"], env=environment() | {"PATH": path}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert yaml.safe_load(pasted.stdout)["hydra"]["run"]["dir"].replace("\\$", "$") == name
    assert (
        command.endswith(" state.resume=auto")
        and "never" not in command
        and "'run.tags=['\"'\"'a b'\"'\"']'" in command
    )


def test_nothing_is_told_where_nothing_can_go_on(tmp_path, capsys):
    some = config("model=mlp", "data=synthetic", "data.task=regression", "train.steps=3")
    tell_how_to_go_on(some, tmp_path, [PROGRAM])
    leave_state(tmp_path, 3)
    tell_how_to_go_on(some, tmp_path, [PROGRAM])
    assert capsys.readouterr().err == ""
    leave_state(tmp_path, 2)
    os.rename(tmp_path / FOLDER / "step-00000003", tmp_path / "away")
    tell_how_to_go_on(some, tmp_path, ["mine/train.py", "--config-name", "x"])
    assert f"\npython mine/train.py --config-name x hydra.run.dir={tmp_path}\n" in capsys.readouterr().err
