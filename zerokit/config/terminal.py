"""Text for people: pages of 80 columns, and messages that a terminal shows in whole words and a pipe gets as lines."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from contextlib import suppress
from typing import Any, TextIO

WIDTH = 80
"""Columns of what is printed."""


def printable(text: str) -> str:
    """Return text that is safe to show: tabs as spaces, line breaks kept, other control characters replaced."""
    text = text.replace("\r\n", "\n").expandtabs(4)
    return "".join(char if char == "\n" or char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def wrapped(text: str, indent: int = 0, width: int = WIDTH) -> list[str]:
    """The text in lines of at most `width` columns; words such as paths and options are not broken."""
    space = " " * indent
    return textwrap.wrap(
        text, width, initial_indent=space, subsequent_indent=space, break_on_hyphens=False, break_long_words=False
    )


def say(text: str, file: TextIO | None = None) -> None:
    """Write a message at once, by default to standard output: on a terminal it is wrapped between words; a pipe or file
    gets its lines as they are, to be searched. Control characters, such as of a file that somebody has made, are
    replaced."""
    file, text = file or sys.stdout, printable(text)
    print(_fitted(text) if file.isatty() else text, file=file, flush=True)


def complain(text: object) -> None:
    """Write what went wrong to standard error, with the program's name."""
    say(f"zerokit: {text}", sys.stderr)


class Lasting:
    """A standard stream that raises nothing: from the first error, of a full disk or a reader that has gone, what is
    written to it is lost. error: the first."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        """Write a text, as far as that is possible."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Hand over what was written, as far as that is possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: Exception) -> None:
        """Let what is still buffered go nowhere, also when the process ends, and what its children write."""
        self.error = self.error or error
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def open_standard_streams() -> None:
    """Let standard input, output and error be open: where one is closed, a file opened later would take its place, and
    what is printed would go into that file."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", closefd=False))


def lasting_output() -> Lasting:
    """Let nothing that this process prints end it; return its standard output."""
    if not isinstance(sys.stdout, Lasting):
        sys.stdout, sys.stderr = Lasting(sys.stdout), Lasting(sys.stderr)
    return sys.stdout


def _fitted(text: str) -> str:
    width = shutil.get_terminal_size().columns
    lines = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        lines += wrapped(line.strip(), indent, width) if len(line) > width else [line]
    return "\n".join(lines)
