"""The README of a package is a map: it names every file, and its links lead somewhere."""

from __future__ import annotations

import re

import pytest

from tests.commands import ROOT

PACKAGES = ("train", "state", "config", "estimate", "zero")


@pytest.mark.parametrize("package", PACKAGES)
def test_it_names_every_file_and_no_other(package):
    folder = ROOT / "zerokit" / package
    text = (folder / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Files\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    rows += re.findall(r"^`\w+/`.*?\((.*?)\)", table, re.MULTILINE)  # folders whose files are named in a line
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {file.stem for file in folder.rglob("*.py")} - {"__init__"}


@pytest.mark.parametrize("package", PACKAGES)
def test_its_links_lead_somewhere(package):
    folder = ROOT / "zerokit" / package
    targets = re.findall(r"\]\(([^)#]+)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert [target for target in targets if not (folder / target).exists()] == []
