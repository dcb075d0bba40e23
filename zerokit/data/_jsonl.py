"""Rows with a field of text as documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from zerokit.config.errors import nearest
from zerokit.data._documents import DocumentSource, build_documents, held_out
from zerokit.data._reading import BadRow, Row, rows
from zerokit.data._store import Document, Tally
from zerokit.data._tokenizer import Tokenizer

TOGETHER = 512
"""Rows that are made into tokens at once, on all cores."""


def build(options, seed: int) -> DocumentSource:
    """Source of the texts, and of their classes if `label` names them."""
    read = partial(_read, options)
    labelled = options.label is not None
    return build_documents("jsonl", options, seed, read, labelled=labelled, field=options.field, label=options.label)


def _read(options, files: list[tuple[Path, str | None]], tokenizer: Tokenizer, tally: Tally) -> Iterator:
    def encode(found: list[tuple[Row, tuple]]) -> list[Document]:
        made = []
        encoded = tokenizer.encode([text for _, (text, _) in found])
        for (_, (text, label)), tokens in zip(found, encoded, strict=True):
            whole = [*tokenizer.prefix, *tokens, *tokenizer.suffix]
            made.append(Document(whole, label=label, bytes=len(text.encode("utf-8", errors="surrogatepass"))))
        return made

    def extract(values: dict[str, Any]) -> tuple:
        text = field(values, options.field)
        if not isinstance(text, str) or not text:
            raise BadRow(f"expected text in '{options.field}', got {_shown(text)}")
        if options.label is None:
            return text, None
        label = field(values, options.label)
        if isinstance(label, bool) or not isinstance(label, str | int) or isinstance(label, int) and label < 0:
            raise BadRow(f"expected a class, a number from 0 or a name, in '{options.label}', got {_shown(label)}")
        return text, label

    return documents(files, tally, options.held_out_percent, extract, encode)


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


def _shown(value: Any) -> str:
    return "an empty text" if value == "" else f"{type(value).__name__} {str(value)[:40]!r}"
