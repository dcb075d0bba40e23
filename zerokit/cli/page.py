"""The page of a command, from the docstring of its module: "`USAGE`: what it does." and paragraphs on its arguments."""

from __future__ import annotations

from zerokit.config.terminal import WIDTH, wrapped


def usage(doc: str) -> str:
    """The command line in the docstring of a command's module."""
    return doc.split("`")[1]


def page(doc: str) -> list[str]:
    """Lines of the page."""
    meaning, *more = doc.partition("`: ")[2].strip().split("\n\n")
    lines = [*wrapped(f"Usage: {usage(doc)}"), "", *wrapped(meaning[0].upper() + meaning[1:])]
    for paragraph in more:
        lines += ["", *wrapped(paragraph)]
    return lines


def command(words: list[str]) -> list[str]:
    """A command line indented by two columns, continued with backslashes where it is long; no word is broken."""
    lines = words[:1]
    for word in words[1:]:
        if len(lines[-1]) + len(word) > WIDTH - 8:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return [f"  {line}" for line in " \\\n  ".join(lines).split("\n")]
