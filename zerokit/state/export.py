"""Weights of a state as one model on disk: safetensors, in several files with an index where it is large."""

from __future__ import annotations

import glob
import json
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from zerokit.state.disk import Disk, make_durable_folder, remove_tree, write_all
from zerokit.state.errors import StateError
from zerokit.state.folder import TEMPORARY
from zerokit.state.piece import NAMES
from zerokit.state.rankfile import header, view_bytes

LARGEST = 5_000_000_000
"""Bytes of a file above which a model is cut into several."""
NAMED = ("model", "config.json")
"""What the files of a model's tensors begin with, and that of its configuration."""


@dataclass(frozen=True)
class Output:
    """A tensor to write: elements `[start, start + numel)` of the tensor `source` of the state, in this shape.

    function: elementwise; gives the values from those of `source` and, as a tuple, of the tensors `others`.
    """

    name: str
    source: str
    start: int
    shape: tuple[int, ...]
    function: Callable[[Tensor, tuple[Tensor, ...]], Tensor] | None = None
    others: tuple[str, ...] = ()

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Reader(Protocol):
    """What has tensors: a state, or an engine, whose come in order and are those that an `Output.function` gives."""

    def segments(self, name: str, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Elements `[start, stop)` of a tensor as (offset from `start`, flat CPU values)."""


def write_model(reader: Reader, outputs: Iterable[Output], dtype: torch.dtype, config: Mapping[str, Any],
                target: Path, largest: int = LARGEST, replace: bool = False, names: tuple[str, str] = NAMED,
                files: Mapping[str, bytes] | None = None) -> list[str]:  # fmt: skip
    """Write `outputs` as floating-point numbers of `dtype`, `config` and other `files` into the folder `target`, which
    is new unless it may be replaced; return the names of the files. A few elements are in memory at a time.

    names: what the files of tensors begin with, and that of `config`.

    Raises:
        StateError: there is something in `target`. DamagedState: the state cannot be read.
    """
    disk, target = Disk(), Path(target).absolute()
    if not replace and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StateError(f"{target} exists and is not empty: remove it, or give another folder.")
    make_durable_folder(disk, target.parent)
    for left in target.parent.glob(f"{glob.escape(target.name)}{TEMPORARY}*"):  # by an export that was killed
        remove_tree(disk, left)
    draft = target.with_name(f"{target.name}{TEMPORARY}{uuid.uuid4().hex[:8]}")
    disk.make_folder(draft)
    try:
        written = _write(disk, reader, list(outputs), dtype, draft, largest, names[0])
        format_ = {"dtype": str(dtype).removeprefix("torch.")} if names == NAMED else {}
        text = json.dumps({**config, **format_}, indent=2) + "\n"
        for name, content in {names[1]: text.encode(), **(files or {})}.items():
            _write_file(disk, draft / name, [content])
            written.append(name)
        disk.sync_folder(draft)
        if target.exists():
            remove_tree(disk, target)
        disk.rename(draft, target)
        disk.sync_folder(target.parent)
    except BaseException:
        remove_tree(disk, draft)
        raise
    return written


def _write(disk: Disk, reader: Reader, outputs: list[Output], dtype: torch.dtype, folder: Path,
           largest: int, stem: str) -> list[str]:  # fmt: skip
    groups = _cut(outputs, dtype.itemsize, largest)
    if len(groups) == 1:
        _write_group(disk, reader, groups[0], dtype, folder / f"{stem}.safetensors")
        return [f"{stem}.safetensors"]
    places: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        name = f"{stem}-{number:05d}-of-{len(groups):05d}.safetensors"
        _write_group(disk, reader, group, dtype, folder / name)
        places |= {output.name: name for output in group}
    total = sum(output.numel for output in outputs) * dtype.itemsize
    index = {"metadata": {"total_size": total}, "weight_map": places}
    name = f"{stem}.safetensors.index.json"
    _write_file(disk, folder / name, [(json.dumps(index, indent=2) + "\n").encode()])
    return [*dict.fromkeys(places.values()), name]


def _cut(outputs: list[Output], itemsize: int, largest: int) -> list[list[Output]]:
    groups: list[list[Output]] = [[]]
    size = 0
    for output in outputs:
        if groups[-1] and size + output.numel * itemsize > largest:
            groups.append([])
            size = 0
        groups[-1].append(output)
        size += output.numel * itemsize
    return groups


def _write_group(disk: Disk, reader: Reader, group: list[Output], dtype: torch.dtype, path: Path) -> None:
    entries = [(output.name, NAMES[dtype], output.shape, output.numel * dtype.itemsize) for output in group]

    def stream() -> Iterator[Any]:
        yield header(entries, {"format": "pt"})
        for output in group:
            for _, values in values_of(reader, output):
                yield _bytes(values.to(dtype).contiguous())

    _write_file(disk, path, stream())


def values_of(reader: Reader, output: Output) -> Iterator[tuple[int, Tensor]]:
    """The values of an output as (offset, flat CPU values), a few elements at a time."""
    for begin, values in reader.segments(output.source, output.start, output.start + output.numel):
        if output.function is not None:
            first = output.start + begin
            others = tuple(reader.values(name, first, first + len(values)) for name in output.others)
            values = output.function(values, others)
        yield begin, values


def _bytes(values: Tensor) -> bytes:
    return bytes(view_bytes(values))


def _write_file(disk: Disk, path: Path, contents: Iterable[bytes]) -> None:
    file = disk.create(path)
    try:
        for data in contents:
            write_all(disk, file, memoryview(data))
        disk.sync(file)
    finally:
        disk.close(file)
