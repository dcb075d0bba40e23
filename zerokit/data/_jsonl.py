"""Rows with a field of text as documents, with their classes, or as pairs with another text."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from zerokit.data import _pairs
from zerokit.data._documents import DocumentSource, build_documents
from zerokit.data._extract import documents, field, shown, text_in
from zerokit.data._reading import BadRow, Row
from zerokit.data._store import Document, Tally
from zerokit.data._tokenizer import Tokenizer


def build(options, seed: int) -> DocumentSource:
    """Source of the texts, and of their classes if `label` names them, or of pairs if `target` does."""
    options = options.resolved()
    if options.target is not None:
        read, sizes = partial(_pairs.read, options), [options.seq_len, options.target_tokens, options.long]
        return build_documents("pairs", options, seed, read, _pairs.PairSource, masked=True, sizes=sizes,
                               field=options.field, target=options.target)  # fmt: skip
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
        text = text_in(values, options.field)
        if options.label is None:
            return text, None
        label = field(values, options.label)
        if isinstance(label, bool) or not isinstance(label, str | int) or isinstance(label, int) and label < 0:
            raise BadRow(f"expected a class, a number from 0 or a name, in '{options.label}', got {shown(label)}")
        return text, label

    return documents(files, tally, options.held_out_percent, extract, encode)
