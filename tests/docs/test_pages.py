"""Pages fit together: links lead somewhere, tables are whole, blocks are of a kind that is tested."""

from __future__ import annotations

import re

import pytest
from jsonschema import Draft7Validator
from omegaconf import OmegaConf

from tests.commands import ROOT
from tests.docs.pages import BLOCKS, COMMAND_LANGUAGES, OTHER_LANGUAGES, PAGES, SCRIPTS, anchors, commands, links, words
from zerokit.cli import COMMANDS
from zerokit.cli.help import GROUPS
from zerokit.config.json_schema import config_schema
from zerokit.config.paths import CONF, choices


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 200


def test_blocks_are_of_a_known_language():
    assert {language for _, language, _ in BLOCKS} <= {*COMMAND_LANGUAGES, *OTHER_LANGUAGES}
    assert sum(text.count("```") for text in PAGES.values()) == 2 * len(BLOCKS), "a code block that was not found"


def test_every_python_block_is_run_by_a_command():
    python = [code for _, language, code in BLOCKS if language == "python"]
    assert len(SCRIPTS) == len(python), "two Python blocks of one name"
    assert all(re.fullmatch(r"\w+\.py", name) for name in SCRIPTS), "a Python block begins with `# NAME.py`"
    assert set(SCRIPTS) <= {word for _, command in commands() for word in words(command)}


def test_yaml_blocks_fit_the_schema_they_name():
    for code in [code for _, language, code in BLOCKS if language == "yaml"]:
        assert code.startswith("# yaml-language-server: $schema=schemas/config.schema.json\n")
        Draft7Validator(config_schema()).validate(OmegaConf.to_container(OmegaConf.create(code)))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    for target in links(PAGES[page]):
        path, _, anchor = target.partition("#")
        file = folder / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for target in links(PAGES[page]):
            file = ((ROOT / page).parent / target.partition("#")[0]).resolve()
            name = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else ""
            waiting += [name] if name in PAGES and name not in reached else []
    assert sorted(page for page in PAGES if page.startswith("docs/") and page not in reached) == []


@pytest.mark.parametrize("name", ["terminal.svg", "memory.svg"])
def test_a_picture_loads_nothing(name):
    picture = (ROOT / "docs" / name).read_text(encoding="utf-8")
    loaded = re.findall(r"(?:href=|src=|url\(|@import)\s*[\"']?\s*([^\"')]+)", picture)
    assert [target for target in loaded if not target.startswith("#")] == []
    assert f"docs/{name}" in links(PAGES["README.md"])


def test_the_picture_of_the_terminal_is_of_the_main_job():
    picture = (ROOT / "docs" / "terminal.svg").read_text(encoding="utf-8")
    assert "$&#160;zerokit<" in picture  # what `make train` runs, with nothing changed


@pytest.mark.parametrize("group", GROUPS)
def test_the_table_of_groups_has_every_choice(group):
    text, path = PAGES["docs/reference/configuration.md"], f"conf/{group}"
    (row,) = re.findall(rf"^\| `{group}=` \| \[{path}\]\(../../{path}\) \| (.*) \|$", text, re.MULTILINE)
    assert [name for name in choices(group) if f"`{name}`" not in row] == []
    default = re.search(rf"^  - {group}: (\S+)", (CONF / "config.yaml").read_text(), re.MULTILINE)[1]
    assert re.findall(r"\*\*`(\w+)`\*\*", row) == ([] if default in ("null", "[]") else [default])


def test_the_page_of_the_command_line_has_every_command():
    text = PAGES["docs/reference/command-line.md"]
    assert [name for name in COMMANDS if not re.search(rf"`{name}[ `]", text)] == []


def test_the_version_has_an_entry_in_the_changelog():
    import zerokit

    assert f"## {zerokit.__version__}\n" in PAGES["CHANGELOG.md"]
