from __future__ import annotations

import resource
import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.commands import environment, python, zerokit

LOADED = "import sys, zerokit.cli; status = zerokit.cli.run({words}); print(status, 'torch' in sys.modules)"


def test_a_wrong_value_ends_with_status_2_one_line_and_no_folder(tmp_path):
    result = zerokit("zero.stage=7", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "zerokit: zero.stage: expected one of 0, 1, 2, 3; got 7.\n"
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "status"),
    [(["optimizer.lrr=1"], 2), (["-m", "zero=stage0,stage8"], 2), (["--help"], 0), (["--cfg", "job"], 0)],
)
def test_torch_is_not_imported(tmp_path, words, status):
    result = python("-c", LOADED.format(words=words), cwd=tmp_path)
    assert result.stdout.splitlines()[-1] == f"{status} False", result.stderr


@pytest.mark.parametrize(("words", "seconds"), [(["--help"], 1.0), (["optimizer.lrr=1"], 2.0)])
def test_answers_come_at_once(tmp_path, words, seconds):
    def duration():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        zerokit(*words, cwd=tmp_path)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Of the processor, and the best of a few, because other tests run beside this one.
    assert any(duration() < seconds for _ in range(4))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "There is no command 'trian'. Did you mean train?"),
        (["train", "zero"], "Cannot read 'zero': write KEY=VALUE"),
        (["report"], "Give one folder: zerokit report FOLDER [baseline=CELL]."),
        (["report", "nowhere"], "There is no folder nowhere"),
        (["report", "."], "is no folder of a run or a sweep"),
    ],
)
def test_a_wrong_command_is_explained(tmp_path, words, message):
    result = zerokit(*words, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr


def test_flags_of_hydra_work(tmp_path):
    whole = zerokit("--cfg", "job", "zero=stage3", cwd=tmp_path)
    assert "stage: 3" in whole.stdout and "prefetch: 1" in whole.stdout, "options that no YAML lists are shown too"
    section = zerokit("--cfg", "job", "--package", "zero", cwd=tmp_path)
    assert section.stdout.startswith("zero:\n  stage: 2\n")
    assert "outputs/${now:" in zerokit("--cfg", "hydra", "--package", "hydra.run", cwd=tmp_path).stdout
    assert "zero/stage2" in zerokit("--info", "defaults", cwd=tmp_path).stdout
    assert zerokit("--hydra-help", cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_script_of_the_user_adds_a_component_without_a_yaml(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "import zerokit\n"
        "@dataclass\n"
        "class Options:\n"
        "    width: int = 3\n"
        '    """Width."""\n'
        "@zerokit.register('model', 'mine', Options)\n"
        "def build(options, data): ...\n"
        "zerokit.main()\n"
    )
    result = python("mine.py", "--cfg", "job", "model=mine", "model.width=5", cwd=tmp_path)
    assert "model:\n  name: mine\n  width: 5\n" in result.stdout, result.stderr
    wrong = python("mine.py", "model=mine", "model.widht=5", cwd=tmp_path)
    assert "Did you mean model.width?" in wrong.stderr
    assert "mine" in python("mine.py", "help", "model", cwd=tmp_path).stdout


def test_a_closed_pipe_is_no_error(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-m", "zerokit", "help", "model=gpt_nano"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_an_installed_package_adds_a_component(tmp_path):
    metadata = tmp_path / "extra-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[zerokit.components]\nextra = extra\n")
    (tmp_path / "extra.py").write_text("import zerokit\nzerokit.register('optimizer', 'extra')(lambda options: None)\n")
    result = zerokit("--cfg", "job", "--package", "optimizer", "optimizer=extra", cwd=tmp_path)
    assert result.stdout == "optimizer:\n  name: extra\n", result.stderr


def test_the_shell_completes_groups_and_choices(tmp_path, monkeypatch):
    assert "hydra_bash_completion" in zerokit("-sc", "install=bash", cwd=tmp_path).stdout
    monkeypatch.setenv("COMP_LINE", "zerokit zero=stage")
    monkeypatch.setenv("COMP_POINT", "18")
    completed = zerokit("-sc", "query=bash", cwd=tmp_path)
    assert completed.stdout.split() == ["zero=stage0", "zero=stage1", "zero=stage2", "zero=stage3"], completed.stderr


def test_the_version_is_that_of_zerokit(tmp_path):
    result = zerokit("--version", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"zerokit {version('zerokit')}\n")
