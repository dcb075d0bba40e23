"""`sys.argv`, the only place where Hydra looks for its words, and where a run's files find the command to name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def arguments(words: list[str]) -> Iterator[None]:
    """Let `sys.argv` be `words`, the program first."""
    before = sys.argv
    sys.argv = words
    try:
        yield
    finally:
        sys.argv = before
