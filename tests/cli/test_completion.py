from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.commands import environment, zerokit
from zerokit.cli import COMMANDS
from zerokit.cli.completion import candidates
from zerokit.cli.help import GROUPS
from zerokit.config.paths import choices


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("zerokit zero=", ["zero=auto ", *(f"zero=stage{number} " for number in range(4))]),
        ("zerokit -m zero=stage0,stage1,stage2", ["zero=stage0,stage1,stage2 "]),
        ("zerokit tr", ["tracker.", "tracker=", "train ", "train."]),
        ("zerokit train tr", ["tracker.", "tracker=", "train."]),
        ("zerokit train.comp", ["train.compile=", "train.compile_backend="]),
        ("zerokit train.compile=", ["train.compile=false ", "train.compile=null ", "train.compile=true "]),
        ("zerokit ++zero.transport=p", ["++zero.transport=peer "]),
        ("zerokit batch.g", ["batch.global="]),
        ("zerokit optimizer=sgd optimizer.m", ["optimizer.moments=", "optimizer.momentum="]),
        ("zerokit optimizer.ne", []),
        ("zerokit optimizer=sgd optimizer.nesterov=t", ["optimizer.nesterov=true "]),
        ("zerokit model=llama_1b model.rope_t", ["model.rope_theta="]),
        ("zerokit --cfg ", ["--cfg all ", "--cfg hydra ", "--cfg job "]),
        ("zerokit --multi", ["--multirun "]),
        ("zerokit --config-dir ", []),
        ("zerokit help prec", ["precision ", "precision="]),
        ("zerokit help precision=bf", ["precision=bf16 "]),
        ("zerokit schema opt", ["optimizer "]),
        ("zerokit completion ", ["bash ", "fish ", "zsh "]),
        ("zerokit report ", []),
        ("zerokit nonsense.x", []),
        ("zerokit train.steps.x", []),
    ],
)
def test_candidates(line, expected):
    assert candidates(line) == [word.removeprefix("--cfg ") for word in expected]


def test_the_first_word_is_a_command_a_group_or_a_section():
    found = candidates("zerokit ")
    assert {f"{name} " for name in COMMANDS} | {f"{group}=" for group in GROUPS} | {"train."} <= set(found)


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_is_offered(group):
    assert candidates(f"zerokit {group}=") == [f"{group}={name} " for name in choices(group)]


def test_another_shell_is_refused(tmp_path):
    result = zerokit("completion", "tcsh", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "one of bash, zsh, fish" in result.stderr


@pytest.fixture
def bash(tmp_path):
    """An interactive bash with `zerokit` on its path and the completion installed; types keys, returns the words."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    command = tmp_path / "bin" / "zerokit"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m zerokit "$@"\n')
    command.chmod(0o755)
    env = environment() | {"PATH": f"{command.parent}:{os.environ['PATH']}", "TERM": "dumb"}
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execve(shutil.which("bash"), ["bash", "--norc", "--noprofile", "-i"], env)

    def answer(keys: str) -> str:
        """Type `keys`; what is printed between two marks, which the keys themselves do not hold."""
        os.write(terminal, keys.encode())
        text, limit = "", time.monotonic() + 30
        while not (found := re.search("<WORDS>(.*)<END>", text)) and time.monotonic() < limit:
            if select.select([terminal], [], [], 0.1)[0]:
                text += os.read(terminal, 4096).decode()
        assert found, text
        return found[1]

    def words(keys: str) -> list[str]:
        """Type `keys` and let the shell print the words of the line it has become."""
        # Ctrl-A goes to the start of the line, where a command that prints its arguments is put in front.
        return answer(f"{keys}\x01show \n").split("|")

    show = """show() { local IFS='|'; printf '<%s>%s<%s>' WORDS "$*" END; }"""
    try:
        answer(f'stty cols 500; {show}; eval "$(zerokit completion bash)"; show\n')
        yield words
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("zerokit precision=b\t", ["zerokit", "precision=bf16"]),
        ("zerokit -m zero=stage0,stage3\toptimizer=sg\toptimizer.momentu\t0.9", ["zerokit", "-m", "zero=stage0,stage3",
                                                                         "optimizer=sgd", "optimizer.momentum=0.9"]),
        ("zerokit rep\tfold\t", ["zerokit", "report", "folder/"]),
        ("zerokit hydra.run.dir=fold\t", ["zerokit", "hydra.run.dir=folder/"]),
    ],
)  # fmt: skip
def test_a_real_bash_completes(bash, tmp_path, keys, words):
    (tmp_path / "folder").mkdir()
    assert bash(keys) == words


@pytest.fixture
def command(tmp_path):
    """The environment of a shell that finds `zerokit` on its path."""
    script = tmp_path / "bin" / "zerokit"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m zerokit "$@"\n')
    script.chmod(0o755)
    (tmp_path / "folder").mkdir()
    return environment() | {"PATH": f"{script.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb"}


FISH = """
zerokit completion fish | source
for line in 'zerokit precision=b' 'zerokit -m zero=stage0,stage3 optimizer.ne' 'zerokit rep' 'zerokit report fol'
    complete -C $line
end
"""


def test_a_real_fish_completes(tmp_path, command):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    done = subprocess.run(["fish", "-c", FISH], cwd=tmp_path, env=command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["precision=bf16", "report", "folder/"], done.stderr


ZSH = """
zmodload zsh/zpty
zpty -b shell zsh -f -i
say() { zpty -w -n shell "$1"; while :; do zpty -r shell out "*$2*" && break; done; print -r -- "$out"; }
say $'PS1=; autoload -Uz compinit; compinit -u -D; eval "$(zerokit completion zsh)"; echo REA""DY\n' READY
for line in 'zerokit precision=b' 'zerokit rep' 'zerokit report fol'; do
    say "$line"$'\t\x01print -r -- WOR""DS \x05 EN""D\n' $'WORDS*END'
done
"""


def test_a_real_zsh_completes(tmp_path, command):
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    done = subprocess.run(
        ["zsh", "-f", "-c", ZSH], cwd=tmp_path, env=command, capture_output=True, text=True, timeout=60
    )
    found = re.findall(r"^WORDS zerokit (.*?) *END", done.stdout, re.MULTILINE)
    assert found == ["precision=bf16", "report", "report folder"], done.stdout + done.stderr
