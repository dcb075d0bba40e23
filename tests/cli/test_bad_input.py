"""Bad input of every command: one line that says what is wrong, status 2, no traceback, nothing written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.config.test_terminal import Terminal
from zerokit.cli import COMMANDS, main, run
from zerokit.config.terminal import say

# Files and folders that a row may name:
# empty/   nothing in it              half/   summary.json, metrics.jsonl, config.yaml and sweep.json cut in the middle
# file     a text                     binary  no UTF-8                unreadable   cannot be read, not even by root
SPLIT = "_"
ROWS: dict[str, list[tuple[str, str]]] = {
    "train": [
        ("_bogus", "There is no command 'bogus'"),
        ("_--bogus", "Unknown flag --bogus"),
        ("_--cfg bogus", "--cfg/-c: invalid choice: 'bogus'"),
        ("_--config-dir", "--config-dir/-cd: expected one argument"),
        ("bogus", "Cannot read 'bogus': write KEY=VALUE"),
        ("bogus.x=1", "Unknown key bogus"),
        ("train.bogus=1", "Unknown key train.bogus"),
        ("train.steps=many", "train.steps: expected a whole number; got many"),
        ("zero=stage9", "Did you mean zero=stage3?"),
        ("hydra/launcher=bogus", "there is no such hydra/launcher"),
        ("hydra.bogus=1", "Unknown key hydra.bogus"),
        ("--config-dir nowhere", "there is no folder"),
        ("--config-dir file", "there is no folder"),
        ("--config-path nowhere --config-name config", "there is no folder"),
        ("--config-path empty --config-name config", "empty; see --config-path"),
        ("--config-path half --config-name config", "Malformed YAML in"),
        ("--config-path binary_folder --config-name config", "binary_folder cannot be read"),
        ("--config-path unreadable_folder --config-name config", "unreadable_folder cannot be read"),
        ("data=text", "data.files: expected at least one file"),
        ("data=text data.files=[nowhere]", "data.files: no file matches 'nowhere' (looked from"),
        (
            "data=text data.files=[empty]",
            "data.files: no file matches 'empty' (that folder has no file that ends in .txt",
        ),
        ("hydra.run.dir=file", "Cannot use file: File exists. Choose another output folder"),
        ("hydra.run.dir=file/x", "Cannot use file/x: Not a directory"),
        ("model=mlp data=synthetic data.task=regression hydra.run.dir=taken", "/taken/logs: File exists."),
        ("-m train.steps=1,2 hydra.sweep.dir=file", "Cannot use file: File exists"),
        ("-m train.steps=range(3,3)", "train.steps=range(3,3): expected at least one value to sweep over"),
        ("-m zero=", "there is no such zero"),
        ("-m zero=stage8,stage9", "zero=stage8: there is no such zero"),
        ("sweep.dry_run=true", "add -m"),
        ("--plot-schedule scheduler=bogus", "there is no such scheduler"),
        ("--plot-schedule train.steps=0", "train.steps must be at least 1"),
    ],
    "estimate": [
        ("bogus", "Cannot read 'bogus'"),
        ("--bogus", "Unknown flag --bogus"),
        ("--cfg job", "does not take --cfg"),
        ("-m zero=stage0,stage1", "takes one configuration"),
        ("--config-dir nowhere", "there is no folder"),
        ("estimate.hardware=h1000", "Did you mean estimate.hardware=h100_ib400?"),
        ("estimate.world=[0]", "estimate.world must be at least 1"),
        ("estimate.memory_gib=-1", "estimate.memory_gib must be above 0"),
        ("estimate.json=nowhere/x.json", "there is no folder nowhere"),
        ("estimate.json=empty", "that is a folder"),
    ],
    "report": [
        ("", "Give one folder"),
        ("nowhere", "There is no folder nowhere"),
        ("file", "There is no folder file"),
        ("empty", "empty is no folder of a run or a sweep"),
        ("half nowhere", "Give one folder"),
        ("half --bogus", "Give one folder"),
        ("half baseline=x", "baseline= compares the cells of a sweep"),
        ("sweep baseline=x", "baseline=x: there is no such cell. Cells: a, b."),
    ],
    "state": [
        ("", "Give one folder"),
        ("nowhere", "with states, but there is no such folder."),
        ("file", "file: expected a state"),
        ("empty", "empty: expected a state"),
        ("half", "half: expected a state"),
        ("half file", "Give one folder"),
        ("half --bogus", "Cannot read '--bogus'"),
    ],
    "export": [
        ("", "Give a state or the folder of a run"),
        ("nowhere", "with states, but there is no such folder."),
        ("file", "file: expected a state"),
        ("empty", "empty: expected a state"),
        ("half", "half: expected a state"),
        ("half --bogus", "Unknown flag --bogus"),
        ("half --dtype", "--dtype: expected one of fp32"),
        ("half --dtype=fp8", "got 'fp8'"),
        ("half file empty", "Give a state or the folder of a run"),
    ],
    "convert": [
        ("", "Give one file"),
        ("nowhere", "nowhere: there is no such file"),
        ("empty", "empty: expected a file, this is a folder"),
        ("file", "file, line 1, column 1"),
        ("half/summary.json", "half/summary.json, line 1"),
        ("binary", "binary: expected JSON in UTF-8; byte 0 is not"),
        ("unreadable", "unreadable: cannot be read: Input/output error"),
        ("file --bogus", "Give one file"),
        ("file half", "Give one file"),
    ],
    "doctor": [
        ("--bogus", "Cannot read '--bogus'"),
        ("empty half", "Cannot read 'empty half'"),
    ],
    "dashboard": [
        ("", "arguments are required: project"),
        ("a/b/c", "Cannot read the project 'a/b/c'"),
        ("a --bogus", "Unrecognized arguments: --bogus"),
        ("a b", "Unrecognized arguments: b"),
        ("a --name", "expected one argument"),
    ],
    "schema": [
        ("bogus", "There is no group 'bogus'"),
        ("--bogus", "Cannot read '--bogus'"),
        ("--write", "Cannot read '--write'"),
        ("--write file", "schema --write file: File exists"),
        ("--write file/x", "schema --write file/x: Not a directory"),
        ("zero half", "Cannot read 'zero half'"),
    ],
    "generate": [
        ("", "RUN"),
        ("nowhere", "a prompt"),
        ("nowhere --prompt a", "nowhere"),
        ("empty --prompt a", "empty"),
        ("file --prompt a", "file"),
    ],
    "evaluate": [
        ("", "RUN"),
        ("nowhere", "nowhere"),
        ("empty", "empty"),
        ("half", "half"),
    ],
    "rerun": [
        ("", "RUN"),
        ("nowhere", "nowhere"),
        ("empty", "empty"),
        ("unreadable_folder", "unreadable_folder"),
    ],
    "completion": [
        *((words, "Give the shell, one of bash, zsh, fish") for words in ("", "tcsh", "--bogus", "bash bash")),
    ],
    "help": [
        ("bogus", "There is no help on 'bogus'"),
        ("--bogus", "There is no help on '--bogus'"),
        ("zero=stage9", "Did you mean zero=stage3?"),
        ("train=x", "There is no group 'train'"),
        ("=", "There is no group ''"),
        ("zero train", "Give one word"),
    ],
}
CASES = [(command, words, message) for command, rows in ROWS.items() for words, message in rows]


def line(command: str, words: str) -> list[str]:
    """The words of a row; those after an underscore come without the command."""
    return words[1:].split() if words.startswith(SPLIT) else [command, *words.split()]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "half", "binary_folder", "unreadable_folder", "sweep/a", "sweep/b"):
        Path(name).mkdir(parents=True)
    Path("file").write_text("a text\n")
    Path("taken").mkdir()
    Path("taken/logs").write_text("a file in place of a folder")
    Path("half/summary.json").write_text('{"status": "fini')
    Path("half/metrics.jsonl").write_text('{"trainer/step": 1, "train/loss": 2.5}\n{"trainer/st')
    Path("half/config.yaml").write_text("train: {steps: 3")
    for place in ("binary", "binary_folder/config.yaml"):
        Path(place).write_bytes(bytes(range(255, 128, -1)))
    for place in ("unreadable", "unreadable_folder/config.yaml"):
        os.symlink("/proc/self/mem", place)
    for cell in "ab":
        Path(f"sweep/{cell}/summary.json").write_text('{"status": "finished"}')
    return tmp_path


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.relative_to(folder).parts[0] != "outputs"}


def test_every_command_has_rows():
    assert set(ROWS) == set(COMMANDS)


@pytest.mark.parametrize(("command", "words", "message"), CASES, ids=[f"{c} {w}" for c, w, _ in CASES])
def test_bad_input_is_one_line_that_says_what_is_wrong(folder, capfd, command, words, message):
    before = files(folder)
    with pytest.raises(SystemExit) as ended:
        main(line(command, words))
    assert ended.value.code == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert err.startswith("zerokit: ") and message in err
    assert files(folder) == before
    assert not Path("outputs").exists() or "dry_run" in words, "no empty folder of a run is left"
    say(err, terminal := Terminal())
    assert all(len(row) <= 80 or " " not in row.strip() for row in terminal.getvalue().splitlines())


@pytest.mark.parametrize(
    ("folder_of", "left_out"),
    [("half", "half/summary.json was left out: "), ("sweep", "sweep/a/summary.json was left out: ")],
)
def test_a_report_is_made_of_what_can_be_read_and_says_what_cannot(folder, capfd, caplog, folder_of, left_out):
    Path("sweep/a/summary.json").write_text('{"status": "fini')
    assert run(["report", folder_of]) == 0
    assert f"{folder_of}/report.html\n" in capfd.readouterr().out
    assert left_out in caplog.text


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl"])
@pytest.mark.parametrize(
    "content", [b'{"memory": 4, "bits_per_byte": 1, "max_allocated_gib": 2}', b"[1]", b"\xff", None]
)
def test_a_report_survives_any_content(folder, caplog, name, content):
    Path("half").joinpath(name).unlink()
    if content is None:
        os.symlink("/proc/self/mem", f"half/{name}")
    else:
        Path("half").joinpath(name).write_bytes(content)
    assert run(["report", "half"]) == 0
    assert content is not None or f"half/{name} was left out" in caplog.text


def test_the_shell_asks_with_nothing_typed(capsys):
    assert run(["completion", "--query", ""]) == 0
    assert "train.\n" in capsys.readouterr().out
