from __future__ import annotations

import pytest

from zerokit.cli import run
from zerokit.cli.help import GROUPS
from zerokit.config.paths import choices
from zerokit.config.schema import SECTIONS


def test_the_overview_names_every_group_choice_and_fits_the_terminal(capsys):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for group in GROUPS:
        assert f"\n  {group} " in text
        assert all(name in text for name in choices(group))
    assert "stage2*" in text, "defaults are marked"
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize("choice", [f"{group}={name}" for group in GROUPS for name in choices(group)])
def test_every_choice_is_explained(choice, capsys):
    assert run(["help", choice]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("section", [*GROUPS, *SECTIONS])
def test_every_group_and_section_is_explained(section, capsys):
    assert run(["help", section]) == 0
    assert section in capsys.readouterr().out


def test_options_show_value_meaning_and_type(capsys):
    run(["help", "zero=stage3"])
    text = capsys.readouterr().out
    assert "zero.stage=3" in text
    assert "(one of 0, 1, 2, 3)" in text


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimiser", "There is no help on 'optimiser'. Did you mean optimizer?"),
        ("optimizer=adamx", "Did you mean optimizer=adam"),
        ("bogus=1", "There is no group 'bogus'"),
    ],
)
def test_unknown_words_are_answered_with_the_nearest(word, message, capsys):
    assert run(["help", word]) == 2
    assert message in capsys.readouterr().err
