"""JSON and YAML that anybody may have written, in bounded time and memory: sizes, depth and numbers have limits."""

from __future__ import annotations

import json
import math
import os
import stat
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

DEEPEST = 64
"""Levels of lists and mappings within each other."""
MOST_VALUES = 1_000_000
"""Values in a file, counting one that YAML repeats by reference as often as it stands there."""
MOST_BYTES = 64 << 20
MOST_YAML = 1 << 20
NESTING = {"[": 1, "{": 1, "]": -1, "}": -1}
LONGEST_NUMBER = 300
"""Digits of a whole number."""


def parse_json(text: str | bytes, unique: bool = False) -> Any:
    """The value of a JSON text. A whole number of more digits than any figure has counts as infinite.

    unique: refuse a key that stands twice in a mapping.

    Raises:
        ValueError: it is malformed, or too deep or large.
    """
    try:
        return bounded(json.loads(text, parse_int=_whole, object_pairs_hook=_unique if unique else None))
    except RecursionError:
        raise ValueError("lists or mappings are too deep within each other") from None


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, in which no code is named.

    Raises:
        ValueError: it is malformed, too deep or large, or holds itself.
    """
    if len(text) > MOST_YAML:
        raise ValueError(f"it is longer than {MOST_YAML >> 20} MiB")
    depth = max(accumulate(NESTING.get(sign, 0) for sign in text), default=0)
    if depth > 4 * DEEPEST:  # signs within texts count too; the parser's time grows with the square of the depth
        raise ValueError("lists or mappings are too deep within each other")
    try:
        return bounded(yaml.safe_load(text))
    except RecursionError:
        raise ValueError("lists or mappings are too deep within each other") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error).partition("\n")[0]) from None


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The text in a plain file of at most `most` bytes; what is no UTF-8 is replaced.

    Raises:
        OSError: it cannot be read. ValueError: it is longer, or no plain file, such as a pipe that never ends.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no plain file")
        if found.st_size > most:
            raise ValueError(f"it is longer than {most >> 20} MiB")
        return file.read(most).decode("utf-8", errors="replace")


def bounded(value: Any, deepest: int = DEEPEST) -> Any:
    """The value itself.

    Raises:
        ValueError: it is too deep or large, or holds itself.
    """
    seen, waiting = 0, [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        seen += 1
        if depth > deepest:
            raise ValueError(f"lists or mappings are more than {deepest} deep within each other")
        if seen > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} values")
        if isinstance(item, dict):
            waiting += [(each, depth + 1) for each in item.values()]
        elif isinstance(item, list):
            waiting += [(each, depth + 1) for each in item]
    return value


def _whole(digits: str) -> int | float:
    if len(digits) <= LONGEST_NUMBER:
        return int(digits)
    return -math.inf if digits.startswith("-") else math.inf


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return values
