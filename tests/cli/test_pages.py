"""Every page fits 80 columns and says what a person needs; so do errors (all of them are in test_bad_input)."""

from __future__ import annotations

import sys
from itertools import takewhile

import pytest

from tests.config.test_terminal import Terminal
from zerokit.cli import COMMANDS, run
from zerokit.cli.help import GROUPS, OVERLAYS, all_choices, names
from zerokit.config.paths import CONF

CHOICES = [f"{group}={name}" for group in GROUPS for name in all_choices(group)]


def printed(capsys, *words: str) -> str:
    assert run(list(words)) == 0
    text = capsys.readouterr().out
    wide = [line for line in text.splitlines() if len(line) > 80]
    assert not wide, f"zerokit {' '.join(words)}: {wide}"
    return text


@pytest.mark.parametrize("name", [*names(), *CHOICES])
def test_every_page_of_help_fits(name, capsys):
    assert name.partition("=")[2] in printed(capsys, "help", name)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_explains_itself(command, flag, capsys):
    text = printed(capsys, command, "anything", flag)
    assert text.startswith(f"Usage: zerokit {'[train]' if command == 'train' else command}")
    assert text == printed(capsys, "help", command)


def test_help_is_asked_for_with_any_word(capsys):
    assert printed(capsys, "zero=stage3", "--help") == printed(capsys, "--help") == printed(capsys, "help")


@pytest.mark.parametrize("choice", CHOICES)
def test_descriptions_are_whole(choice, capsys):
    group, _, name = choice.partition("=")
    lines = (CONF / group / f"{name}.yaml").read_text().splitlines()
    comment = takewhile(
        lambda line: line.startswith("# ") and line[2] != " ", (ln for ln in lines if "@package" not in ln)
    )
    meaning = " ".join(line.removeprefix("# ") for line in comment)
    for page in (group, choice):
        assert meaning in " ".join(printed(capsys, "help", page).split())


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice.partition("=")[0] in OVERLAYS])
def test_an_overlay_says_what_it_answers_sets_and_how_to_run_it(choice, capsys):
    meaning, _, rest = printed(capsys, "help", choice).partition("\nIt sets\n")
    assert "?" in meaning
    assert "  tracker=none\n" in rest and "  train.steps=" in rest
    assert f"\nRun it with\n  python -m zerokit {choice}" in rest
    assert ("\nIt runs every combination of\n" in rest) == choice.startswith("experiment=")
    assert "@package" not in rest and "defaults:" not in rest


def test_a_sweep_of_an_overlay_lists_its_values(capsys):
    assert "  zero\n      stage0, stage1, stage2, stage3\n" in printed(capsys, "help", "experiment=stages")
    assert "  launch.nproc\n      1" in printed(capsys, "help", "experiment=scaling")
    assert "${" not in printed(capsys, "help", "experiment=scaling"), "values as they are on this host"


@pytest.mark.parametrize("words", [["dashboard"], ["help", "bogus"], ["zero=stage9"]], ids=" ".join)
def test_an_error_fits_a_terminal(words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert run(words) == 2
    lines = terminal.getvalue().splitlines()
    assert lines and max(map(len, lines)) <= 80
