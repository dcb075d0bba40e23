"""Rows 14 and 16 of the fault matrix: a configuration that is broken or names code is refused before any worker."""

from __future__ import annotations

import pytest
import yaml

from tests.commands import zerokit
from tests.config.arguments import config, configs
from zerokit.cli.train import main as train
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


TRICKS = {
    "environment": "hydra: {job: {env_set: {WANDB_BASE_URL: http://elsewhere}}}\n",
    "copied environment": "hydra: {job: {env_copy: [WANDB_API_KEY]}}\n",
    "log": "hydra: {job_logging: {version: 1, handlers: {x: {class: logging.FileHandler, filename: FILE, mode: w}}}}\n",
    "log of Hydra": "hydra: {hydra_logging: {version: 1, handlers: {x: {class: os.mkdir, path: FOLDER}}}}\n",
    "search path": "hydra: {searchpath: [pkg://evil_package]}\n",
    "callback": "hydra: {callbacks: {x: {_target_: os.mkdir, path: FOLDER}}}\n",
    "private target": "hydra: {launcher: {_target_: hydra._internal.utils.run_and_report, func: x}}\n",
    "option of the launcher": "defaults: [_self_, override hydra/launcher: basic]\nhydra: {launcher: {setup: [x]}}\n",
    "own launcher": "defaults: [_self_, override hydra/launcher: evil]\n",
    "own launcher with a known name": "defaults: [_self_, override hydra/launcher: zerokit]\n",
    "own log": "defaults: [_self_, override hydra/job_logging: evil]\n",
    "into a package": "defaults: [_self_, evil@hydra.job: evil]\n",
    "header": "defaults: [_self_, evil: header]\n",
    "interpolation": "evil: {env_set: {A: B}}\nhydra: {job: '${evil}'}\n",
    "no mapping": "hydra: '${oc.env:HOME}'\n",
}


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A folder of somebody's with a config, `main.yaml` still to be written; and a file and a package to notice by."""
    for name, text in {
        "hydra/launcher/evil.yaml": "_target_: hydra_plugins.zerokit_launcher.ZerokitLauncher\nsetup: [x]\n",
        "hydra/launcher/zerokit.yaml": "_target_: hydra._internal.core_plugins.basic_launcher.BasicLauncher\n",
        "hydra/job_logging/evil.yaml": "version: 1\n",
        "evil/evil.yaml": "env_set: {A: B}\n",
        "evil/header.yaml": "# @package hydra.job\nenv_set: {A: B}\n",
        "packages/evil_package/__init__.py": "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n",
        "precious.txt": "precious",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    return tmp_path


def write_trap(folder, text):
    own = config("optimizer=sgd").to_dict()
    text = text.replace("FILE", str(folder / "precious.txt")).replace("FOLDER", str(folder / "made"))
    (folder / "main.yaml").write_text(text + yaml.safe_dump(own))


@pytest.mark.parametrize("flags", [(), ("-m",), ("--cfg", "hydra"), ("--info", "config")], ids=" ".join)
@pytest.mark.parametrize("trick", TRICKS)
def test_a_foreign_config_cannot_tell_hydra_what_to_do(trap, trick, flags, capfd):
    write_trap(trap, TRICKS[trick])
    with pytest.raises(ConfigError, match="hydra"):
        train([f"--config-path={trap}", "--config-name=main", *flags])
    assert not (trap / "made").exists() and not (trap / "packages" / "evil_package" / "ran").exists()
    assert (trap / "precious.txt").read_text() == "precious"
    assert "\n" not in capfd.readouterr().out


@pytest.mark.parametrize("trick", [name for name in TRICKS if not name.startswith(("search", "no map"))])
def test_nor_can_an_overlay_in_a_folder_of_the_user(trap, trick):
    (trap / "experiment").mkdir()
    text = TRICKS[trick].replace("[_self_, override ", "[override /").replace("[_self_, evil", "[/evil")
    (trap / "experiment" / "mine.yaml").write_text("# @package _global_\n" + text)
    with pytest.raises(ConfigError, match=r"hydra|evil"):
        configs("launch=cpu", f"--config-dir={trap}", "experiment=mine")


def test_what_a_run_folder_needs_is_taken(trap):
    (trap / "hydra" / "launcher" / "zerokit.yaml").unlink()
    write_trap(
        trap,
        "defaults: [_self_, override hydra/launcher: basic]\n"
        "hydra: {run: {dir: there}, sweep: {dir: those}, mode: MULTIRUN, sweeper: {params: {train.steps: '3,4'}}}\n",
    )
    found = configs(f"--config-path={trap}", "--config-name=main")
    assert [(each.train.steps, each.optimizer.name) for each in found] == [(3, "sgd"), (4, "sgd")]
    write_trap(trap, "")
    words = ("+hydra.job.env_set.A=B", "hydra.run.dir=here", "hydra/launcher=basic")
    assert len(configs(f"--config-path={trap}", "--config-name=main", *words)) == 1
