"""Documents from rows: what is wanted of each row's fields, made into tokens many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from zerokit.config.errors import nearest
from zerokit.data._documents import held_out
from zerokit.data._reading import BadRow, Row, rows
from zerokit.data._store import Document, Tally

TOGETHER = 512
"""Rows that are made into tokens at once, on all cores."""


def documents(
    files: list[tuple[Path, str | None]],
    tally: Tally,
    percent: int,
    extract: Callable[[dict[str, Any]], Any],
    encode: Callable[[list[tuple[Row, Any]]], list[Document]],
) -> Iterator[tuple[str, Document, bool]]:
    """The documents of all rows, in order.

    extract: what is wanted of a row's fields; raises BadRow. encode: many rows with that → their documents.
    """
    number = 0
    for path, split in files:
        found = _sound(path, tally, extract)
        while together := list(islice(found, TOGETHER)):
            for (row, _), document in zip(together, encode(together), strict=True):
                into = split or ("held_out" if held_out(number, percent) else "train")
                tally.read(row.bytes)
                number += 1
                yield into, document, True


def _sound(path: Path, tally: Tally, extract: Callable[[dict[str, Any]], Any]) -> Iterator[tuple[Row, Any]]:
    for row in rows(path):
        try:
            if isinstance(row.values, BadRow):
                raise row.values
            yield row, extract(row.values)
        except BadRow as problem:
            tally.bad(row.place, problem)


def field(values: dict[str, Any], key: str) -> Any:
    """The value of a row under a key, or an inner one under OUTER.INNER.

    Raises:
        BadRow: there is none.
    """
    if key in values:
        return values[key]
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            near, given = nearest(key, values), ", ".join(map(repr, values)) or "none"
            raise BadRow(f"expected a field '{key}', got {given}" + (f"; did you mean {near}?" if near else ""))
        found = found[part]
    return found


def text_in(values: dict[str, Any], key: str) -> str:
    """The text of a row under a key.

    Raises:
        BadRow: there is none.
    """
    text = field(values, key)
    if not isinstance(text, str) or not text:
        raise BadRow(f"expected text in '{key}', got {shown(text)}")
    return text


def shown(value: Any) -> str:
    """A value, for an error."""
    return "an empty text" if value == "" else f"{type(value).__name__} {str(value)[:40]!r}"
