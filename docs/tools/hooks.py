"""What MkDocs does to the pages beyond Markdown: references generated from docstrings, links out of docs/ as names."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path, PurePosixPath
from typing import Any, get_type_hints

from zerokit.cli import COMMANDS
from zerokit.cli import page as command_page
from zerokit.cli.help import GROUPS, OVERLAYS, all_choices, options_of
from zerokit.cli.overlay import comment
from zerokit.config.docs import option_docs
from zerokit.config.parse import defaults, describe, spell
from zerokit.config.paths import CONF
from zerokit.config.schema import SECTIONS

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?://|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
SHIM = "https://unpkg.com/iframe-worker/shim"
"""Where the theme takes a script from that search needs on pages of the file system."""
MARK = re.compile(r"<!-- (commands|options): [^>]*-->")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page with its marks filled in, and links to files outside docs/ as their names."""
    markdown = MARK.sub(lambda mark: {"commands": _commands, "options": _options}[mark[1]](), markdown)
    return LINK.sub(lambda link: _inside(link, PurePosixPath(page.file.src_uri).parent), markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """A page whose search needs no network."""
    return output.replace(SHIM, "../" * page.url.count("/") + "assets/iframe-worker.js")


def on_post_template(output_content: str, template_name: str, **_: Any) -> str:
    """The page for what is not found, as all others."""
    return output_content.replace(SHIM, "assets/iframe-worker.js")


def _inside(link: re.Match[str], folder: PurePosixPath) -> str:
    text, target = link[1], link[2]
    path = (ROOT / "docs" / folder / target).resolve()
    if path.is_relative_to(ROOT / "docs"):
        return link[0]
    name = path.relative_to(ROOT)
    return text if text.strip("`") == str(name) else f"{text} (`{name}`)"


def _commands() -> str:
    texts = []
    for name, place in COMMANDS.items():
        module = importlib.import_module(place.partition(":")[0])
        if name != "help" and "`" in (module.__doc__ or ""):
            lines = "\n".join(command_page.page(module.__doc__))
            texts.append(f"### {name}\n\n```text\n{lines}\n```")
    return "\n\n".join(texts)


def _options() -> str:
    texts = []
    for group in [group for group in GROUPS if group not in OVERLAYS]:
        texts.append(f"### {group}=\n\n{GROUPS[group].capitalize()}.")
        for name in all_choices(group):
            kind, values = options_of(group, name)
            file = CONF / group / f"{name}.yaml"
            meaning = comment(file).meaning if file.exists() else ""
            texts.append(f"#### {group}={name}\n\n{_plain(meaning)}\n\n{_table(group, kind, values)}")
            if group in SECTIONS:  # the same options for every choice
                texts[-1] = texts[-1].partition("\n| option")[0]
        if group in SECTIONS:
            texts.append(_table(group, SECTIONS[group], {}))
    for section, kind in SECTIONS.items():
        if section not in GROUPS:
            texts.append(f"### {section}\n\n{_plain(kind.__doc__ or '')}\n\n{_table(section, kind, {})}")
    return "\n\n".join(texts)


def _table(section: str, kind: type, values: dict[str, Any]) -> str:
    docs, hints = option_docs(kind), get_type_hints(kind)
    rows = []
    for field, (key, default) in zip(dataclasses.fields(kind), defaults(kind).items(), strict=True):
        value = spell(values.get(key, default))
        cells = (
            f"`{section}.{key}`",
            f"`{value}`" if value else "",
            docs.get(field.name, ""),
            describe(hints[field.name]),
        )
        rows.append("| " + " | ".join(_plain(cell) for cell in cells) + " |")
    if not rows:
        return "It has no options."
    return "\n".join(["| option | default | meaning | type |", "|---|---|---|---|", *rows])


def _plain(text: str) -> str:
    """A text as it stands, where Markdown would read marks or tags into it."""
    if text.startswith("`"):
        return text.replace("|", "\\|")
    parts = text.replace("|", "\\|").split("`")
    escaped = [re.sub(r"([*_<\[])", r"\\\1", part) if number % 2 == 0 else part for number, part in enumerate(parts)]
    return "`".join(escaped)
