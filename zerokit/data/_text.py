"""Text files as documents: one per file, or two where its end is held out."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from zerokit.data._documents import DocumentSource, build_documents
from zerokit.data._reading import BadRow, size_of, text_blocks
from zerokit.data._store import Document, Tally
from zerokit.data._tokenizer import Bytes, Tokenizer

Part = tuple[str, Document, bool]


def build(options, seed: int) -> DocumentSource:
    """Source of the user's files; the end of each is held out."""
    return build_documents("text", options, seed, partial(_read, options.held_out_percent))


def _read(percent: int, files: list[tuple[Path, str | None]], tokenizer: Tokenizer, tally: Tally) -> Iterator[Part]:
    for path, split in files:
        size = size_of(path)
        cut = {"train": size, "held_out": 0, None: size - size * percent // 100}[split]
        current = None
        for found, block, place in _divided(path, cut, lines=not isinstance(tokenizer, Bytes)):
            tally.read(len(block))
            try:
                plain = isinstance(tokenizer, Bytes)
                tokens = _widened(block) if plain else tokenizer.encode([block.decode("utf-8")])[0]
            except UnicodeDecodeError as error:
                tally.bad(f"{path}: byte {place + error.start + 1}", BadRow("expected UTF-8, which this is not"))
                continue
            if found != current:
                if current is not None:
                    yield current, Document(tokenizer.suffix), True
                yield found, Document(tokenizer.prefix), False
                current = found
            yield found, Document(tokens, bytes=len(block)), False
        if current is not None:
            yield current, Document(tokenizer.suffix), True


def _divided(path: Path, cut: int, lines: bool) -> Iterator[tuple[str, bytes, int]]:
    """The blocks of a file with their split and first byte. lines: the file is cut after the line at `cut`."""
    place = 0
    for block in text_blocks(path, lines):
        until = max(0, cut - place)
        if lines and 0 < until < len(block):
            until = (block.find(b"\n", until - 1) + 1) or len(block)
        for split, part, first in (("train", block[:until], place), ("held_out", block[until:], place + until)):
            if part:
                yield split, part, first
        place += len(block)


def _widened(block: bytes) -> array:
    """Bytes as the 16-bit numbers that the store keeps, without a step of Python for each."""
    return array("H", block.decode("latin-1").encode(f"utf-16-{sys.byteorder[0]}e"))
