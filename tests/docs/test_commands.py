"""The pages tell the truth: every command and every Python block in them runs, shortened, in a folder of its own.

A command of a form that is not known here fails: teach `run` about it. Nothing is left out in silence.
"""

from __future__ import annotations

import gzip
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, environment
from tests.data import tokenizers
from tests.docs import forked
from tests.docs.pages import SCRIPTS, commands
from tests.huggingface import folders

NOT_TRAINING = (
    "help", "report", "estimate", "convert", "state", "export", "schema", "completion", "doctor", "dashboard",
    "generate", "evaluate", "sweep.dry_run=true", "--help", "--version", "--cfg", "--info", "--plot-schedule",
)  # fmt: skip
SHORT = ("train.steps=2", "train.log_every=1", "train.eval_samples=4", "train.sample_tokens=0", "data.seq_len=32")
SMALL = ("model.dim=32", "model.layers=1", "model.heads=4")
"""Sizes for the models of commands that choose none, which are of the GPT family."""
LIGHT = ("data=text", "data.files=[book.txt]")
"""Read faster than the standard library, for commands that do not choose their data."""
RUN, MODEL, TOKENIZER = "RUN_FOLDER", "MODEL", "TOKENIZER"
"""Words in place of what a reader has."""
MOST_CELLS = 2
"""Values of an axis that a sweep is shortened to; tests/sweep has more."""


def shortened(words: list[str], folder: Path) -> list[str]:
    """The words of a training with overrides that make it short, and `folder` its output folder."""
    own = [*words, *SHORT, f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
    if {"--config-path", "rerun"} & {*words}:  # a config that is composed already: of `folder_of_a_run`, a small one
        return own
    if {"-m", "--multirun"} & {*words}:
        own = [first_values(word) if word in words else word for word in own]
    chosen = {word.partition("=")[0] for word in words}
    own += ["profile.after=1", "profile.steps=1"] if "debug=profile" in words else []
    data = LIGHT if "data" not in chosen else ()
    return [*own, "tracker=none", *data, *(() if "model" in chosen else SMALL)]


def first_values(word: str) -> str:
    """A word of a sweep with its first values alone."""
    key, equals, values = word.partition("=")
    return key + equals + (values if values.startswith("[") else ",".join(values.split(",")[:MOST_CELLS]))


def expected_runs(arguments: list[str]) -> int:
    """How many runs a command makes: the product of the numbers of values A,B,… under -m."""
    count = 1
    for word in arguments if {"-m", "--multirun"} & {*arguments} else []:
        count *= word.partition("=")[2].count(",") + 1 if "[" not in word else 1
    return count


def trains(words: list[str]) -> bool:
    """Whether the command trains by zerokit's command line (a loop of one's own takes no overrides)."""
    own_loop = words[0] != "zerokit" and "zerokit.main()" not in SCRIPTS[words[0]]
    return not own_loop and not any(word in NOT_TRAINING for word in words)


def execute(words: list[str], here: Path) -> str:
    """Run words as a process of their own and return what they printed; fail if they fail."""
    result = subprocess.run(words, cwd=here, env=environment(), capture_output=True, text=True, timeout=150)
    assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def run(words: list[str], here: Path, ranks: int = 1) -> str:
    """Run words in forks of this process and return what they printed; fail if they fail."""
    result = forked.program(words, here, ranks)
    assert result.status == 0, f"{shlex.join(words)}\n{result.output}\n{result.errors}"
    return result.output


def train(words: list[str], here: Path, ranks: int = 1) -> None:
    """Run a training, shortened, and look at its summaries."""
    short = shortened(words, here / "out")
    if ranks > 1:
        execute([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", *short], here)
    else:
        run(short, here)
    runs = summaries(here / "out")
    assert len(runs) == expected_runs(short)
    assert [(run["status"], run["steps"]) for run in runs] == [("finished", 2)] * len(runs)


def program(words: list[str], here: Path) -> list[str]:
    """The words of a command that starts zerokit or a script of a page, which is written into `here`."""
    match words:
        case ["zerokit", *_]:
            return words
        case ["python", "-m", "zerokit", *rest] | ["-m", "zerokit", *rest]:
            return ["zerokit", *rest]
        case ["python", script, *_] if script in SCRIPTS:
            words = words[1:]
    if words[0] not in SCRIPTS:
        pytest.fail(f"a command of unknown form: {shlex.join(words)}")
    (here / words[0]).write_text(SCRIPTS[words[0]], encoding="utf-8")
    return words


def summaries(folder: Path) -> list[dict]:
    """The summaries of all runs below a folder."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("summary.json"))]


def write_book(here: Path) -> None:
    (here / "book.txt").write_text("It was a bright cold day in April.\n" * 200)


@pytest.fixture(scope="module")
def folder_of_a_run(tmp_path_factory) -> Path:
    """The output folder of a short run of the main job."""
    here = tmp_path_factory.mktemp("main_job")
    write_book(here)
    run([*shortened(["zerokit"], here / "run"), "state.every=1"], here)
    (summary,) = summaries(here / "run")
    assert (summary["status"], summary["steps"]) == ("finished", 2)
    return here / "run"


@pytest.fixture(scope="module")
def folder_of_a_model(tmp_path_factory) -> Path:
    """A small model of Hugging Face with its tokenizer."""
    folder = folders.save("llama", tmp_path_factory.mktemp("huggingface") / "model", vocabulary=400)
    return tokenizers.decoder(folder)


@pytest.fixture
def here(tmp_path) -> Path:
    """The folder that a reader of the pages is in, with texts to train on and DeepSpeed's configuration."""
    (tmp_path / "ds_config.json").write_text('{"train_batch_size": 8, "zero_optimization": {"stage": 2}}')
    write_book(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "one.txt").write_text("The clocks were striking thirteen.\n" * 100)
    rows = "".join(json.dumps({"text": f"row {number} of a table of rows " * 8}) + "\n" for number in range(60))
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    said = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello, hello. " * 8}]
    (tmp_path / "chats.jsonl").write_text((json.dumps({"messages": said}) + "\n") * 60)
    return tmp_path


@pytest.fixture
def filled(request):
    """Put what a reader has in place of the words for it."""

    def fill(command: str) -> str:
        for word, name in ((RUN, "folder_of_a_run"), (MODEL, "folder_of_a_model"), (TOKENIZER, "folder_of_a_model")):
            if word in command:
                command = command.replace(word, str(request.getfixturevalue(name)))
        return command

    return fill


@pytest.mark.parametrize("command", [pytest.param(command, id=f"{page}: {command}") for page, command in commands()])
def test_a_command_runs(command, here, filled, request):
    if command == "python -m zerokit":  # its summary is looked at where the run is made
        request.getfixturevalue("folder_of_a_run")
        return
    match shlex.split(filled(command)):
        case ["make", *rest]:
            assert execute(["make", "-n", "-C", str(ROOT), *rest], here)
        case ["eval", evaluated]:  # a shell's own; what it evaluates is a command of ours
            inner = shlex.split(evaluated.removeprefix("$(").removesuffix(")"))
            execute(["bash", "-c", run(program(inner, here), here)], here)
        case ["sbatch", *rest]:
            batch_script(rest, here)
        case ["python3", "-m", "venv", ".venv"] | [".venv/bin/pip", "install", "-e", _]:
            installable(command)
        case ["python", "-m", ("build" | "twine") as tool, *_]:
            assert execute([sys.executable, "-m", tool, "--help"], here)  # tests/docs/test_package.py runs them
        case ["python", "-m", "bench.compare", *rest]:
            from bench.compare import arguments

            arguments([*rest, "--device", "cpu", "--nproc", "2"])  # it names cases, systems and options that there are
        case ["torchrun", "--nproc_per_node", _, *started]:
            words = program(started, here)
            train(words, here, 2) if trains(words) else run(words, here, 2)
        case words:
            words = program(words, here)
            if trains(words):
                train(words, here)
            elif words == ["zerokit", "doctor"]:
                assert run([*words, "--quick"], here)
            else:
                assert run(words, here).strip() or words == ["sample.py"]  # DeepSpeed's sample script says nothing


def batch_script(words: list[str], here: Path) -> None:
    """Run a batch script with an srun that starts one task here; tests/hosts has the real one."""
    (script,) = [word for word in words if word.endswith(".sh")]
    binaries = here / "bin"
    binaries.mkdir()
    (binaries / "srun").write_text('#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\necho "$@"\n')
    (binaries / "srun").chmod(0o755)
    path = f"PATH={binaries}:{os.environ['PATH']}"
    started = execute(["env", path, "bash", str(ROOT / script), *words[words.index(script) + 1 :]], here)
    train(program(shlex.split(started), here), here)


def installable(command: str) -> None:
    """A command that installs names an extra that there is; a fresh clone of CI installs them."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "venv" in command.split() or any(f".[{extra}]" in command for extra in extras), command


def test_metrics_and_files_of_a_run_are_listed(folder_of_a_run):
    names = {
        name
        for line in (folder_of_a_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        for name in json.loads(line)
    }
    metrics = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert sorted(name for name in names if f"`{name}`" not in metrics) == []
    files = (ROOT / "docs" / "reference" / "files.md").read_text(encoding="utf-8")
    names = {file.name + "/" * file.is_dir() for file in folder_of_a_run.iterdir()}
    assert sorted(name for name in names if f"`{name}`" not in files) == []
