"""The README tells the truth: every command and every Python block in it runs, shortened, in a folder of its own.

A command of a form that is not known here fails: teach `run` about it. Nothing is left out in silence.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft7Validator
from omegaconf import OmegaConf

from tests.commands import ROOT, environment
from tests.data.tokenizers import decoder
from zerokit.cli.help import GROUPS
from zerokit.config.json_schema import config_schema
from zerokit.config.paths import CONF, choices

README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(README)
COMMAND_LANGUAGES = ("sh", "bash", "console")
OTHER_LANGUAGES = ("python", "text", "yaml")
SCRIPTS = {code.partition("\n")[0].removeprefix("# "): code for language, code in BLOCKS if language == "python"}
"""Python blocks by file name, which is their first line."""
NOT_TRAINING = (
    "help", "report", "estimate", "convert", "state", "export", "schema", "completion", "doctor", "dashboard",
    "generate", "evaluate", "sweep.dry_run=true", "--help", "--cfg", "--info", "--plot-schedule",
)  # fmt: skip

SHORT = ("train.steps=2", "train.log_every=1", "train.eval_samples=4", "train.sample_tokens=0", "data.seq_len=32")
SMALL = ("model.dim=32", "model.layers=1", "model.heads=4")
"""Sizes for the models of zerokit's own README commands, which are of the GPT family."""
LIGHT = ("data=text", "data.files=[book.txt]")
"""Read faster than the standard library, for commands that do not choose their data."""
PLACEHOLDER = "RUN_FOLDER"


def commands() -> list[str]:
    """The commands of all shell blocks; in console blocks, what follows a `$`."""
    found = []
    for language, code in BLOCKS:
        lines = code.replace("\\\n", " ").splitlines() if language in COMMAND_LANGUAGES else []
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        found += [line for line in lines if shlex.split(line, comments=True)]
    return [shlex.join(shlex.split(line, comments=True)) for line in found]


def shortened(words: list[str], folder: Path) -> list[str]:
    """The words of a training with overrides that make it short, and `folder` its output folder."""
    own = [*words, *SHORT, f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
    if {"--config-path", "rerun"} & {*words}:  # a config that is composed already: of `folder_of_a_run`, a small one
        return own
    chosen = {word.partition("=")[0] for word in words}
    own += ["profile.after=1", "profile.steps=1"] if "debug=profile" in words else []
    data = LIGHT if words and "data" not in chosen else ()
    return [*own, "tracker=none", *data, *(() if "model" in chosen else SMALL)]


def python_words(words: list[str], here: Path) -> tuple[list[str], list[str]]:
    """What starts the program of a command, and the program's arguments."""
    match words:
        case ["zerokit", *rest] | ["python", "-m", "zerokit", *rest]:
            return [sys.executable, "-m", "zerokit"], rest
        case ["python", script, *rest] if script in SCRIPTS:
            (here / script).write_text(SCRIPTS[script], encoding="utf-8")
            return [sys.executable, script], rest
        case ["sbatch", *rest]:
            (script,) = [word for word in rest if word.endswith(".sh")]
            return [*without_slurm(here), "bash", str(ROOT / script)], rest[rest.index(script) + 1 :]
        case ["torchrun", "--nproc_per_node", _, *program]:
            start, rest = python_words(["python", *program], here)
            return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", *start[1:]], rest
    pytest.fail(f"README.md: a command of unknown form: {shlex.join(words)}")


def without_slurm(here: Path) -> list[str]:
    """What runs a batch script with an srun that starts one task here; tests/hosts has the real one."""
    srun = here / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    return ["env", f"PATH={srun.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"]


def execute(words: list[str], here: Path) -> str:
    """Run words in the folder `here` and return what they printed; fail if they fail."""
    env = environment() | {"WANDB_MODE": "offline"}
    result = subprocess.run(words, cwd=here, env=env, capture_output=True, text=True, timeout=150)
    assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def trains(start: list[str], arguments: list[str]) -> bool:
    """Whether the command trains by zerokit's command line (a loop of one's own takes no overrides)."""
    scripts = [SCRIPTS[word] for word in start if word in SCRIPTS]
    own_loop = any("zerokit.main()" not in code for code in scripts)
    return not own_loop and not any(word in NOT_TRAINING for word in arguments)


def summaries(folder: Path) -> list[dict]:
    """The summaries of all runs below a folder."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("summary.json"))]


@pytest.fixture(scope="module")
def folder_of_a_run(tmp_path_factory) -> Path:
    """The output folder of a short run of the main job."""
    here = tmp_path_factory.mktemp("main_job")
    execute([sys.executable, "-m", "zerokit", *shortened([], here / "run"), "state.every=1"], here)
    (summary,) = summaries(here / "run")
    assert (summary["status"], summary["steps"]) == ("finished", 2)
    return here / "run"


@pytest.fixture
def here(tmp_path) -> Path:
    """The folder that a reader of the README is in: data of each kind, a tokenizer, and DeepSpeed's configuration."""
    text = "It was a bright cold day in April.\n"
    (tmp_path / "ds_config.json").write_text('{"train_batch_size": 8, "zero_optimization": {"stage": 2}}')
    (tmp_path / "book.txt").write_text(text * 4000)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "one.txt").write_text(text * 100)
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as rows:
        rows.writelines(json.dumps({"text": f"{number}. {text * 4}"}) + "\n" for number in range(100))
    chat = [{"role": "user", "content": "Which month?"}, {"role": "assistant", "content": text}]
    (tmp_path / "chats.jsonl").write_text((json.dumps({"messages": chat}) + "\n") * 100)
    decoder(tmp_path / "TOKENIZER")
    return tmp_path


@pytest.mark.parametrize("command", commands())
def test_a_command_runs(command, here, request):
    if command == "python -m zerokit":  # its summary is looked at where the run is made
        request.getfixturevalue("folder_of_a_run")
        return
    if PLACEHOLDER in command:
        command = command.replace(PLACEHOLDER, str(request.getfixturevalue("folder_of_a_run")))
    words = shlex.split(command)
    if words[0] == "make":
        assert execute(["make", "-n", "-C", str(ROOT), *words[1:]], here)
        return
    if words[0] == "eval":  # a shell's own; what it evaluates is a command of ours
        start, arguments = python_words(shlex.split(words[1].removeprefix("$(").removesuffix(")")), here)
        execute(["bash", "-c", execute([*start, *arguments], here)], here)
        return
    if words[:3] == ["python", "-m", "bench.compare"]:
        from bench.compare import arguments

        arguments([*words[3:], "--device", "cpu", "--nproc", "2"])  # it names cases, systems and options that there are
        return
    start, arguments = python_words(words, here)
    if not trains(start, arguments):
        shown = execute([*start, *arguments], here).strip()
        assert shown or words[-1] == "sample.py"  # DeepSpeed's sample script says nothing
        return
    execute([*start, *shortened(arguments, here / "out")], here)
    runs = summaries(here / "out")
    assert len(runs) == expected_runs(arguments)
    assert [(run["status"], run["steps"]) for run in runs] == [("finished", 2)] * len(runs)


def expected_runs(arguments: list[str]) -> int:
    """How many runs a command makes: the product of the numbers of values A,B,… under -m."""
    count = 1
    for word in arguments if {"-m", "--multirun"} & set(arguments) else []:
        count *= word.partition("=")[2].count(",") + 1
    return count


def test_blocks_are_of_a_known_language():
    assert {language for language, _ in BLOCKS} <= {*COMMAND_LANGUAGES, *OTHER_LANGUAGES}
    assert README.count("```") == 2 * len(BLOCKS), "a code block that was not found"


def test_every_python_block_is_run_by_a_command():
    assert all(re.fullmatch(r"\w+\.py", name) for name in SCRIPTS), "a Python block begins with `# NAME.py`"
    assert set(SCRIPTS) <= {word for command in commands() for word in shlex.split(command)}


def test_yaml_blocks_fit_the_schema_they_name():
    for code in [code for language, code in BLOCKS if language == "yaml"]:
        assert code.startswith("# yaml-language-server: $schema=schemas/config.schema.json\n")
        Draft7Validator(config_schema()).validate(OmegaConf.to_container(OmegaConf.create(code)))


def test_links_lead_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert "docs/terminal.svg" in targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_picture_is_of_the_main_job_and_loads_nothing():
    picture = (ROOT / "docs" / "terminal.svg").read_text(encoding="utf-8")
    assert "$&#160;zerokit<" in picture  # what `make train` runs, with nothing changed
    loaded = re.findall(r"(?:href=|src=|url\(|@import)\s*[\"']?\s*([^\"')]+)", picture)
    assert [target for target in loaded if not target.startswith("#")] == []


@pytest.mark.parametrize("group", GROUPS)
def test_the_table_of_groups_has_every_choice(group):
    (row,) = re.findall(rf"^\| `{group}=` \| \[conf/{group}\]\(conf/{group}\) \| (.*) \|$", README, re.MULTILINE)
    assert [name for name in choices(group) if f"`{name}`" not in row] == []
    default = re.search(rf"^  - {group}: (\S+)", (CONF / "config.yaml").read_text(), re.MULTILINE)[1]
    assert re.findall(r"\*\*`(\w+)`\*\*", row) == ([] if default in ("null", "[]") else [default])


def test_metrics_and_files_of_a_run_are_listed(folder_of_a_run):
    names = {
        name
        for line in (folder_of_a_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        for name in json.loads(line)
    }
    names |= {file.name + "/" * file.is_dir() for file in folder_of_a_run.iterdir()}
    assert sorted(name for name in names if f"`{name}`" not in README) == []
