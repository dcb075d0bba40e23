"""The pages that people read, README.md, docs/ and examples/, and the code blocks in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.commands import ROOT

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND_LANGUAGES = ("sh", "bash", "console")
OTHER_LANGUAGES = ("python", "text", "yaml")


def _texts() -> dict[str, str]:
    files = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    files += [*sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
    return {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files}


PAGES = _texts()
"""Text of every page by its path from the root of the checkout."""
BLOCKS = [(name, *block) for name, text in PAGES.items() for block in FENCE.findall(text)]
"""(page, language, code) of every code block."""
SCRIPTS = {code.partition("\n")[0].removeprefix("# "): code for _, language, code in BLOCKS if language == "python"}
"""Python blocks by file name, which is their first line."""


def words(line: str) -> list[str]:
    """The words of a line as a shell reads them, without its comment."""
    return shlex.split(line, comments=True)


def commands() -> list[tuple[str, str]]:
    """(page, command) of all shell blocks, in console blocks what follows a `$`, and of the comments at the top of
    the scripts in examples/; each command once."""
    found: dict[str, str] = {}
    for page, language, code in BLOCKS:
        lines = code.replace("\\\n", " ").splitlines() if language in COMMAND_LANGUAGES else []
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            if words(line):
                found.setdefault(shlex.join(words(line)), page)
    for script in sorted((ROOT / "examples").rglob("*.sh")):
        for line in re.findall(r"^#   (\S.*)$", script.read_text(encoding="utf-8"), re.MULTILINE):
            found.setdefault(shlex.join(words(line)), str(script.relative_to(ROOT)))
    return [(page, command) for command, page in found.items()]


def links(text: str) -> list[str]:
    """Targets of a page's links within the checkout, with their anchors."""
    found = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text))
    return [target for target in found if "://" not in target]


def anchors(file: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", file.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
