"""The source of documents on the disk: rows of tokens as mappings with Hugging Face's names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zerokit.config.data_info import IGNORED, DataInfo
from zerokit.config.errors import ConfigError
from zerokit.config.files import matching_files
from zerokit.data import _tokenizer
from zerokit.data._cache import cached, inputs_digest
from zerokit.data._masking import hide
from zerokit.data._options import DocumentOptions
from zerokit.data._rows import Rows, planned
from zerokit.data._source import Source, cross_entropy, permutation
from zerokit.data._store import SPLITS, Document, Split, Tally, shown, write_store
from zerokit.data._templates import render
from zerokit.data._tokenizer import Tokenizer, load_tokenizer

Read = Callable[[list[tuple[Path, str | None]], Tokenizer, Tally], Iterator[tuple[str, Document, bool]]]
"""Files with their split (None: divided by the source), tokenizer, tally → (split, document, whether it ends here)."""
HELD_OUT_SEED = 0
"""Of the tokens that are hidden for validation, which are the same in every run."""


class DocumentSource(Source):
    """Rows of `seq_len` tokens: `input_ids`, `labels` at their own places, and what keeps documents apart.

    `labels` are `IGNORED` where nothing is to be learned: at the first token of a document and of a row, which nothing
    predicts, at padding, and where the documents say so. Of classes, `labels` (B,) are their numbers.
    """

    def __init__(self, info: DataInfo, store: Path, facts: dict[str, Any], options: DocumentOptions, seed: int):
        super().__init__(seed)
        self.info, self._options, self._facts, self._size = info, options, facts, options.document_tokens
        self.classes: list[str | int] = facts["classes"]
        """Names or numbers of the classes, in the order of `labels`."""
        self._splits = {name: Split(store, name, facts) for name in SPLITS}
        self.template: str | None = None
        """Chat template of conversations."""
        self._rows: dict[str, Rows] = {}
        if options.packing != "join":
            ends = {name: split.ends for name, split in self._splits.items()}
            shortest = 2 if info.task == "tokens" else 1  # a token alone has nothing to be predicted from
            self._rows, self._changed = planned(store, ends, self._size, options.packing, options.long, shortest)
            self.info = replace(info, description=info.description + self._told(options.long))
        self._held_out_order = permutation(self._count("held_out"), 0)
        self._check()

    def _count(self, split: str) -> int:
        if self._rows:
            return len(self._rows[split].ends)
        return max(0, (len(self._splits[split].tokens) - 1) // (self._size - 1))

    def _told(self, long: str) -> str:
        """What became of documents that are longer than a row."""
        count, tokens = (sum(split[key] for split in self._changed.values()) for key in ("documents", "tokens"))
        did = {"split": "divided", "cut": f"cut, which leaves out {tokens:,} tokens", "drop": "left out"}[long]
        return f"; {count:,} documents longer than {self._size} tokens {did}" if count else ""

    def _check(self) -> None:
        """Raises ConfigError where there is nothing to train on, or joined text is shorter than a row."""
        if self._rows:
            if not len(self):
                raise ConfigError(
                    "data: expected at least one document of two tokens to train on; of "
                    f"{self._facts['documents']['train']:,} none is left (data.long={self._options.long})."
                )
            return
        for split, name in (("train", "training"), ("held_out", "held-out")):
            tokens, wanted = len(self._splits[split].tokens), split == "train" or self._options.held_out_percent > 0
            if wanted and not self._count(split):
                raise ConfigError(
                    f"data: expected at least {self._size} {name} tokens for data.seq_len={self._size}, got {tokens}; "
                    "lower data.seq_len or give more text"
                    + ("." if split == "train" else ", or hold nothing out with data.held_out_percent=0.")
                )

    def __len__(self) -> int:
        return self._count("train")

    def batch(self, start: int, count: int) -> dict[str, Tensor]:
        """The rows with global indices `start … start+count-1`."""
        return self._hidden(super().batch(start, count), range(start, start + count), self.seed)

    def _train(self, indices: Tensor) -> dict[str, Tensor]:
        return self._batch("train", indices.tolist())

    def validation(self, start: int, count: int) -> dict[str, Tensor] | None:
        if start + count > len(self._held_out_order):
            return None
        rows = self._batch("held_out", self._held_out_order[start : start + count].tolist())
        return self._hidden(rows, range(start, start + count), HELD_OUT_SEED)

    def _hidden(self, rows: dict[str, Tensor], indices: range, seed: int) -> dict[str, Tensor]:
        percent, facts = self._options.mask_percent, self._facts
        if not percent:
            return rows
        return hide(rows, indices, percent, seed, facts["mask"], facts["special"], facts["vocab_size"])

    def _batch(self, split: str, indices: list[int]) -> dict[str, Tensor]:
        return self._joined(split, indices) if not self._rows else self._divided(split, indices)

    def _joined(self, split: str, indices: list[int]) -> dict[str, Tensor]:
        """Windows that overlap by a token, so that every token but the first of all is a target."""
        tokens, stride = self._splits[split], self._size - 1
        starts = [index * stride for index in indices]
        ids = torch.stack([tokens.values(start, start + self._size) for start in starts])
        labels = ids.clone()
        if tokens.targets is not None:
            learned = torch.stack([tokens.targets[start : start + self._size] for start in starts])
            labels.masked_fill_(~learned, IGNORED)
        labels[:, 0] = IGNORED
        return {"input_ids": ids, "labels": labels}

    def _divided(self, split: str, indices: list[int]) -> dict[str, Tensor]:
        """Rows of whole documents. What follows the last one is padding: with `apart` a document of its own."""
        documents, rows, shape = self._splits[split], self._rows[split], (len(indices), self._size)
        ids = torch.full(shape, self._facts["pad"])
        labels, places, mask = torch.full(shape, IGNORED), torch.zeros(shape).long(), torch.zeros(shape).long()
        classes = torch.zeros(len(indices)).long()
        for row, index in enumerate(indices):
            stop = 0
            for first, length, document in rows.row(index):
                start, stop = stop, stop + length
                ids[row, start:stop] = documents.values(first, first + length)
                labels[row, start + 1 : stop] = ids[row, start + 1 : stop]
                if documents.targets is not None:
                    labels[row, start:stop].masked_fill_(~documents.targets[first : first + length], IGNORED)
                places[row, start:stop] = torch.arange(length)
                if documents.labels is not None:
                    classes[row] = documents.labels[document]
            places[row, stop:] = torch.arange(self._size - stop)
            mask[row, :stop] = 1
        if self.classes:
            labels = classes
        apart = self._options.packing == "apart"
        return {"input_ids": ids, "labels": labels} | ({"position_ids": places} if apart else {"attention_mask": mask})

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats of logits (B, T, V) with the labels (B, T) after them, or of masked tokens at their
        places, or (B, classes) with (B,)."""
        if self.info.task != "tokens":
            return cross_entropy(outputs.flatten(0, -2), targets.flatten())
        return cross_entropy(outputs[:, :-1].flatten(0, -2), targets[:, 1:].flatten())

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What the documents' tokens mean; loaded when it is first asked for."""
        return load_tokenizer(self._options.tokenizer)

    def prompt(self, text: str) -> list[int]:
        """The tokens that a model is to continue `text` from: of conversations, what a user says, by the template."""
        if self.template is None:
            return [*self.tokenizer.prefix, *self.tokenizer.encode([text])[0]]
        said, _ = render([{"role": "user", "content": text}], self.template, self.tokenizer.names, prompt=True)
        return self.tokenizer.encode([said])[0]

    @property
    def stop(self) -> int | None:
        """The token that ends a text, None if there is none."""
        return self.tokenizer.eos

    def decode(self, tokens: list[int]) -> str:
        """Text of `tokens`; what is no text is left out or becomes U+FFFD."""
        return self.tokenizer.decode(tokens)


def build_documents(name: str, options: DocumentOptions, seed: int, read: Read,
                    kind: type[DocumentSource] = DocumentSource, *, masked: bool = False, labelled: bool = False,
                    **settings: Any) -> DocumentSource:  # fmt: skip
    """The source, a `kind`, of what `read` makes of the files of `options`. settings: what else the tokens depend on.

    Raises:
        ConfigError: a file or row cannot be used, or there is too little text.
    """
    files = _files(options)
    key = {
        "source": name,
        "inputs": inputs_digest([path for path, _ in files]),
        "splits": [split for _, split in files],
        "tokenizer": _tokenizer.digest(options.tokenizer),
        "held_out_percent": 0 if options.held_out_files else options.held_out_percent,
        "on_bad": options.on_bad,
        "masked": masked,
        **settings,
    }

    def make(folder: Path) -> dict[str, Any]:
        tokenizer, tally = load_tokenizer(options.tokenizer), Tally(options.on_bad)
        pad = tokenizer.eos if tokenizer.pad is None else tokenizer.pad
        total = None if any(path.suffix == ".gz" for path, _ in files) else sum(_size(path) for path, _ in files)
        with shown(total) as tally.on_progress:
            found = read(files, tokenizer, tally)
            facts = write_store(folder, found, tally, tokenizer.vocab_size, masked, labelled)
        return facts | {"pad": pad or 0, "mask": tokenizer.mask, "special": tokenizer.special}

    store, facts = cached(key, make)
    if options.mask_percent and facts["mask"] is None:
        raise ConfigError(
            f"data.mask_percent: the tokenizer {options.tokenizer} has no mask token; take one of an encoder such as "
            "BERT, or data.mask_percent=0."
        )
    info = _info(name, options, len(files), store, facts)
    return kind(info, store, facts, options, seed)


def _files(options: DocumentOptions) -> list[tuple[Path, str | None]]:
    """Files with the split that they belong to, None where it is divided."""
    files = matching_files("data.files", options.files, options.endings)
    if not options.held_out_files:
        return [(path, None) for path in files]
    held_out = matching_files("data.held_out_files", options.held_out_files, options.endings)
    return [*((path, "train") for path in files if path not in held_out), *((path, "held_out") for path in held_out)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*.arrow"))


def _info(name: str, options: DocumentOptions, files: int, store: Path, facts: dict[str, Any]) -> DataInfo:
    tokens, classes = facts["tokens"], facts["classes"]
    skipped = f"; {facts['skipped']:,} bad rows left out" if facts["skipped"] else ""
    described = (
        f"{name}: {files} files, {tokens['train']:,} tokens to train on, {tokens['held_out']:,} held out{skipped}"
    )
    pairs = getattr(options, "target_tokens", 0)
    if facts["long"]:
        did = {"cut": "cut", "drop": "left out"}[options.long]
        described += f"; {facts['long']:,} pairs with a text longer than {options.seq_len} and {pairs} tokens {did}"
    task = "classification" if classes else "seq2seq" if pairs else "masked" if options.mask_percent else "tokens"
    count = facts["bytes"] if task == "tokens" else None
    return DataInfo(
        task=task,
        sha256=hashlib.sha256(store.name.encode()).hexdigest(),
        description=described,
        seq_len=options.seq_len,
        vocab_size=facts["vocab_size"],
        in_features=None,
        out_features=len(classes) or None,
        bytes_per_token=count / sum(tokens.values()) if count else None,
        target_len=pairs or None,
        pad=facts["pad"],
        classes=tuple(map(str, classes)) if any(isinstance(name, str) for name in classes) else (),
    )


def held_out(number: int, percent: int) -> bool:
    """Whether document `number` (from 0) belongs to the held-out split: evenly spread, the second one first."""
    shift = 100 - 2 * percent
    return ((number + 1) * percent + shift) // 100 > (number * percent + shift) // 100
