from __future__ import annotations

import io

import pytest

from zerokit.config.terminal import complain, say, wrapped

LONG = f"expected a folder; got outputs/{'x' * 70}/run-1 " + "and more words " * 8


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_a_message_is_wrapped_between_words_on_a_terminal_only():
    file, terminal = io.StringIO(), Terminal()
    say(LONG, file)
    say(LONG, terminal)
    assert file.getvalue() == f"{LONG}\n"
    lines = terminal.getvalue().splitlines()
    assert len(lines) > 2 and terminal.getvalue().split() == LONG.split()
    assert all(len(line) <= 80 for line in lines if "outputs/" not in line)


def test_lines_that_fit_and_indentation_are_kept():
    terminal = Terminal()
    say("a  table   row\n\n  " + "word " * 30, terminal)
    first, blank, *rest = terminal.getvalue().splitlines()
    assert (first, blank) == ("a  table   row", "")
    assert len(rest) == 2 and all(line.startswith("  word") for line in rest)


def test_what_went_wrong_names_the_program(capsys):
    complain(ValueError("no"))
    assert capsys.readouterr() == ("", "zerokit: no\n")


def test_options_are_not_broken():
    assert wrapped("x" * 75 + " --dry-run", 2) == [f"  {'x' * 75}", "  --dry-run"]
