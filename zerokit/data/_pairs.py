"""Pairs of texts: one that is read, and one that is written after it, as encoder-decoders learn them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zerokit.config.data_info import IGNORED
from zerokit.data._documents import DocumentSource
from zerokit.data._extract import documents, text_in
from zerokit.data._store import Document, Tally
from zerokit.data._tokenizer import Tokenizer


class PairSource(DocumentSource):
    """Rows of the text that is read, `input_ids` with `attention_mask` (B, T), and `labels` (B, L) of the other.

    A document holds both, one after the other; the tokens of the second are those that are learned.
    """

    def _divided(self, split: str, indices: list[int]) -> dict[str, Tensor]:
        pairs, rows, count = self._splits[split], self._rows[split], len(indices)
        ids, mask = torch.full((count, self.info.seq_len), self._facts["pad"]), torch.zeros(count, self.info.seq_len)
        labels = torch.full((count, self.info.target_len), IGNORED)
        for row, index in enumerate(indices):
            ((first, length, _),) = rows.row(index)
            tokens, written = pairs.values(first, first + length), pairs.targets[first : first + length]
            read = length - int(written.sum())
            ids[row, :read], labels[row, : length - read] = tokens[:read], tokens[read:]
            mask[row, :read] = 1
        return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}

    def prompt(self, text: str) -> list[int]:
        """The tokens of a text that is read, as much as there is room for."""
        return _ended(self.tokenizer, self.tokenizer.encode([text])[0], self.info.seq_len)


def read(options: Any, files: list[tuple[Path, str | None]], tokenizer: Tokenizer, tally: Tally) -> Iterator:
    """The pairs of all rows as documents; a pair with a text that is too long is cut, or empty where it is left out."""

    def extract(values: dict[str, Any]) -> tuple[str, str]:
        return text_in(values, options.field), text_in(values, options.target)

    def encode(found: list[tuple[Any, tuple[str, str]]]) -> list[Document]:
        texts = [text for _, pair in found for text in pair]
        encoded = iter(tokenizer.encode(texts))
        return [pair(source, target) for source, target in zip(encoded, encoded, strict=True)]

    def pair(source: list[int], target: list[int]) -> Document:
        around = len(tokenizer.prefix) + len(tokenizer.suffix)
        long = len(source) + around > options.seq_len or len(target) + around > options.target_tokens
        tally.long += long
        if long and options.long == "drop":
            return Document([], [])
        first = _ended(tokenizer, source, options.seq_len)
        second = _ended(tokenizer, target, options.target_tokens)
        return Document([*first, *second], [False] * len(first) + [True] * len(second))

    return documents(files, tally, options.held_out_percent, extract, encode)


def _ended(tokenizer: Tokenizer, tokens: list[int], size: int) -> list[int]:
    """A text with what its tokenizer puts around it, at most `size` tokens in all."""
    room = max(0, size - len(tokenizer.prefix) - len(tokenizer.suffix))
    return [*tokenizer.prefix, *tokens[:room], *tokenizer.suffix][:size]
