"""Rows 14 and 16 of the fault matrix: a configuration that is broken or names code is refused before any worker."""

from __future__ import annotations

import pytest

from tests.commands import zerokit
from tests.config.arguments import configs
from zerokit.config.errors import ConfigError

LOOPS = ("train.seed=${train.steps}", "train.steps=${train.seed}")
TARGETS = (
    "os.system",
    "builtins.eval",
    "subprocess.run",
    "torch.load",
    "shutil.copyfile",
    "urllib.request.urlretrieve",
    "webbrowser.open",
    "zerokit.launch.launch",
)


def test_an_interpolation_loop_is_refused():
    with pytest.raises(ConfigError, match=r"train\.s(eed|teps)") as error:
        configs("launch=cpu", *LOOPS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("where", ["model", "optimizer", "tracker", "train", "run.tags.0", "+hydra.callbacks.x"])
def test_no_target_is_ever_called(where, target):
    word = f"run.tags=[{{_target_:{target}}}]" if where == "run.tags.0" else f"{where}._target_={target}"
    with pytest.raises(ConfigError, match="_target_ is not allowed"):
        configs("launch=cpu", word)


def test_a_target_in_a_file_of_the_user_is_refused(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "evil.yaml").write_text("name: synthetic\ntask:\n  _target_: os.system\n  command: touch hit\n")
    with pytest.raises(ConfigError, match="_target_ is not allowed"):
        configs("launch=cpu", f"--config-dir={tmp_path}", "data=evil")


def test_a_tag_of_yaml_names_no_code(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    hit = tmp_path / "hit"
    (folder / "evil.yaml").write_text(f"name: !!python/object/apply:os.system ['touch {hit}']\n")
    with pytest.raises(ConfigError, match="Malformed YAML"):
        configs("launch=cpu", f"--config-dir={tmp_path}", "data=evil")
    assert not hit.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: [1\n", "Malformed YAML"),
        ("train:\n  setps: 5\n", "Did you mean train.steps?"),
        ("train:\n  steps: soon\n", "train.steps: expected a whole number; got soon."),
        ("train:\n  steps: ${train.seed}\n  seed: ${train.steps}\n", "train.s"),
    ],
    ids=["malformed", "unknown key", "wrong type", "loop"],
)
def test_a_broken_file_ends_with_status_2_and_leaves_no_run(tmp_path, text, words):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\n" + text)
    result = zerokit("launch=cpu", f"--config-dir={tmp_path}", "experiment=mine", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    assert words in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["experiment"]
