"""Documents as tokens on the disk: written once, read from a memory map, by split."""

from __future__ import annotations

import logging
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zerokit.config.errors import ConfigError
from zerokit.data._cache import mapped
from zerokit.data._reading import BadRow

log = logging.getLogger("zerokit")

SPLITS = ("train", "held_out")
PROGRESS_SECONDS = 10.0


class Document(NamedTuple):
    """tokens: of a document. targets: by token, whether it is to be learned; None: all. label: name or number of its
    class. bytes: of its text."""

    tokens: Sequence[int]
    targets: Sequence[bool] | None = None
    label: str | int | None = None
    bytes: int = 0


class Split:
    """The documents of one split.

    tokens: all of them in a row (N,), int16 or int32 (see `values`). ends: where each document ends (D,). targets
    (N,): whether a token is to be learned, or None: all. labels (D,): classes, or None.
    """

    def __init__(self, folder: Path, name: str, facts: dict[str, Any]):
        wide = facts["vocab_size"] > 1 << 16
        self.tokens = mapped(folder / f"{name}.tokens", torch.int32 if wide else torch.int16)
        self.ends = mapped(folder / f"{name}.ends", torch.int64)
        self.targets = mapped(folder / f"{name}.targets", torch.bool) if facts["masked"] else None
        self.labels = mapped(folder / f"{name}.labels", torch.int64) if facts["classes"] else None

    def values(self, start: int, stop: int) -> Tensor:
        """Tokens `[start, stop)` of the split, int64."""
        part = self.tokens[start:stop].long()
        return part if self.tokens.dtype == torch.int32 else part & 0xFFFF


class Writer:
    """Appends documents to the files of a split."""

    def __init__(self, folder: Path, name: str, vocab_size: int, masked: bool, labelled: bool):
        endings = ["tokens", "ends", *["targets"] * masked, *["labels"] * labelled]
        self.labels: list[str | int] = []
        self._files = {ending: (folder / f"{name}.{ending}").open("wb") for ending in endings}
        self._kind = "i" if vocab_size > 1 << 16 else "H"
        self.tokens = self.documents = self.bytes = 0

    def add(self, document: Document, ends: bool = True) -> None:
        """Append a document, or with ends=False a part of one that goes on."""
        tokens, kind = document.tokens, self._kind
        ready = isinstance(tokens, array) and tokens.typecode == kind
        (tokens if ready else array(kind, tokens)).tofile(self._files["tokens"])
        self.tokens += len(document.tokens)
        self.bytes += document.bytes
        if "targets" in self._files:
            targets = [True] * len(document.tokens) if document.targets is None else document.targets
            array("b", targets).tofile(self._files["targets"])
        if ends:
            array("q", [self.tokens]).tofile(self._files["ends"])
            self.documents += 1
        if document.label is not None:
            self.labels.append(document.label)

    def close(self, classes: list[str | int]) -> None:
        """The files are whole. classes: of which the labels are, in the order of their numbers."""
        if "labels" in self._files:
            numbers = {name: number for number, name in enumerate(classes)}
            array("q", [numbers[label] for label in self.labels]).tofile(self._files["labels"])
        for file in self._files.values():
            file.close()


@dataclass
class Tally:
    """What reading comes upon. on_bad: what a bad row does: `error` or `skip`. long: pairs of texts that were too long,
    which are no longer whole."""

    on_bad: str
    skipped: int = 0
    long: int = 0
    first: str | None = None
    bytes: int = 0
    on_progress: Callable[[int], None] = lambda count: None

    def bad(self, place: str, problem: BadRow) -> None:
        """A row that cannot be used.

        Raises:
            ConfigError: with on_bad=error.
        """
        if self.on_bad == "error":
            raise ConfigError(f"{place}: {problem}. Mend it, or leave such rows out with data.on_bad=skip.")
        self.skipped += 1
        self.first = self.first or f"{place}: {problem}"

    def read(self, count: int) -> None:
        """So many bytes of the files are done."""
        self.bytes += count
        self.on_progress(self.bytes)


def write_store(folder: Path, documents: Iterable[tuple[str, Document, bool]], tally: Tally, vocab_size: int,
                masked: bool = False, labelled: bool = False) -> dict[str, Any]:  # fmt: skip
    """Write documents, given as (split, document, whether it ends here), into a folder; return facts about them."""
    writers = {split: Writer(folder, split, vocab_size, masked, labelled) for split in SPLITS}
    try:
        for split, document, ends in documents:
            writers[split].add(document, ends)
    finally:
        classes = _classes(set().union(*(writer.labels for writer in writers.values())))
        for writer in writers.values():
            writer.close(classes)
    if tally.skipped:
        log.warning("data.on_bad=skip left out %d rows, the first %s", tally.skipped, tally.first)
    return {
        "vocab_size": vocab_size, "masked": masked, "classes": classes, "skipped": tally.skipped, "long": tally.long,
        "bytes": sum(writer.bytes for writer in writers.values()),
        "tokens": {split: writer.tokens for split, writer in writers.items()},
        "documents": {split: writer.documents for split, writer in writers.items()},
    }  # fmt: skip


def _classes(labels: set[str | int]) -> list[str | int]:
    """The classes in their order: names sorted, or all numbers from 0 on."""
    if any(isinstance(label, str) for label in labels):
        return sorted(labels, key=str)
    return list(range(max(labels, default=-1) + 1))


@contextmanager
def shown(total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal while `total` bytes (None: unknown) become tokens; elsewhere a line every few seconds."""
    if not sys.stderr.isatty():
        yield _lines(total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("tokens"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("tokens", total=total)
        yield lambda count: progress.update(task, completed=count)


def _lines(total: int | None) -> Callable[[int], None]:
    since, of = time.monotonic(), "" if total is None else f" of {total / 1e6:.0f}"

    def told(count: int) -> None:
        nonlocal since
        if time.monotonic() - since > PROGRESS_SECONDS:
            since = time.monotonic()
            log.info("made tokens of %.0f%s MB", count / 1e6, of)
            print(f"tokens: {count / 1e6:.0f}{of} MB", file=sys.stderr, flush=True)

    return told
