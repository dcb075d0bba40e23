"""The bytes of Python's standard library: reading, splitting, hashing. Held in memory once per process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from sysconfig import get_paths
from typing import NamedTuple

import torch
from torch import Tensor

from zerokit.config.data_info import DataInfo
from zerokit.config.errors import ConfigError
from zerokit.data._source import TokenSource

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class Corpus(NamedTuple):
    """Bytes of the two splits and the digest of both."""

    train: Tensor  # (bytes,) uint8
    held_out: Tensor  # (bytes,) uint8
    sha256: str
    files: int


def corpus_of(train: list[bytes], held_out: list[bytes], files: int) -> Corpus:
    """Joins the pieces of each split, in the order given."""
    splits = [bytearray(b"".join(pieces)) for pieces in (train, held_out)]
    digest = hashlib.sha256()
    for split in splits:
        digest.update(len(split).to_bytes(8, "little") + split)
    tensors = [torch.frombuffer(s, dtype=torch.uint8) if s else torch.empty(0, dtype=torch.uint8) for s in splits]
    return Corpus(*tensors, digest.hexdigest(), files)


def source_of(corpus: Corpus, name: str, seq_len: int, seed: int) -> TokenSource:
    """Windows of bytes over `corpus`."""
    info = DataInfo(
        task="tokens",
        sha256=corpus.sha256,
        description=f"{name}: {corpus.files} files, {len(corpus.train) / 1e6:.1f} MB to train on, "
        f"{len(corpus.held_out) / 1e6:.2f} MB held out",
        seq_len=seq_len,
        vocab_size=256,
        in_features=None,
        out_features=None,
        bytes_per_token=1.0,
    )
    return TokenSource(info, corpus.train, corpus.held_out, seed)


def is_held_out(name: str, percent: int) -> bool:
    """Whether the file called `name` belongs to the held-out split: by its name alone, on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100 < percent


@lru_cache(maxsize=1)
def stdlib_corpus(percent: int) -> Corpus:
    """Python's own standard library without its tests, sorted by name, split by file."""
    root = Path(get_paths()["stdlib"])
    names = sorted(path.relative_to(root).as_posix() for path in _modules(root))
    if not names:
        raise ConfigError(f"data=stdlib: expected Python's source files under {root}, found none; use data=text")
    train = [(root / name).read_bytes() for name in names if not is_held_out(name, percent)]
    held_out = [(root / name).read_bytes() for name in names if is_held_out(name, percent)]
    return corpus_of(train, held_out, len(names))


def _modules(root: Path) -> Iterator[Path]:
    """Python files at any depth; installed packages, often more files than the library has, are not looked through."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        paths = (Path(folder, name) for name in files if name.endswith(".py"))
        yield from (path for path in paths if path.is_file())


def build_stdlib(options, seed: int) -> TokenSource:
    """Source of the standard library's bytes."""
    return source_of(stdlib_corpus(options.held_out_percent), "Python's standard library", options.seq_len, seed)
