"""Text for people: pages of 80 columns, and messages that a terminal shows in whole words and a pipe gets as lines."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TextIO

WIDTH = 80
"""Columns of what is printed."""


def wrapped(text: str, indent: int = 0, width: int = WIDTH) -> list[str]:
    """The text in lines of at most `width` columns; words such as paths and options are not broken."""
    space = " " * indent
    return textwrap.wrap(
        text, width, initial_indent=space, subsequent_indent=space, break_on_hyphens=False, break_long_words=False
    )


def say(text: str, file: TextIO | None = None) -> None:
    """Write a message at once, by default to standard output: on a terminal it is wrapped between words; a pipe or file
    gets its lines as they are, to be searched."""
    file = file or sys.stdout
    print(_fitted(text) if file.isatty() else text, file=file, flush=True)


def complain(text: object) -> None:
    """Write what went wrong to standard error, with the program's name."""
    say(f"zerokit: {text}", sys.stderr)


def _fitted(text: str) -> str:
    width = shutil.get_terminal_size().columns
    lines = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        lines += wrapped(line.strip(), indent, width) if len(line) > width else [line]
    return "\n".join(lines)
