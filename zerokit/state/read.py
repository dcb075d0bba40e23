"""Reading a state: any run of elements of any tensor, whoever wrote it, after its files have been checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zerokit.comm.exchange import Exchange
from zerokit.state.errors import DamagedState, StateError, StateMismatch
from zerokit.state.manifest import NAME, Manifest, read_manifest
from zerokit.state.piece import CHUNK, DTYPES, Piece

READ_BYTES = 1 << 22
ERRORS = {kind.__name__: kind for kind in (DamagedState, StateMismatch, StateError)}
Result = TypeVar("Result")


def file_digest(path: Path) -> str:
    """XXH3-128 of a file; a link is not followed."""
    digest = xxhash.xxh3_128()
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while data := file.read(READ_BYTES):
            digest.update(data)
    return digest.hexdigest()


def verify_file(folder: Path, manifest: Manifest, index: int) -> None:
    """Raise DamagedState unless file number `index` has the digest that the manifest names."""
    file = manifest.files[index]
    path = Path(folder) / file.name
    try:
        found = file_digest(path)
    except OSError as error:
        raise DamagedState(f"{path} cannot be read: {error.strerror}.") from None
    if found != file.xxh3:
        raise DamagedState(f"{path}: its contents do not match its digest: a byte has changed since it was written.")


def verify(folder: Path, exchange: Exchange | None = None) -> Manifest:
    """Read every byte of a state; return its manifest. With an exchange the ranks share the files: a collective.

    Raises:
        DamagedState: on every rank, naming the file. StateError: another version of the format.
    """
    rank, world = (0, 1) if exchange is None else (exchange.rank, exchange.world)

    def read() -> Manifest:
        manifest = read_manifest(folder)
        for index in range(rank, len(manifest.files), world):
            verify_file(folder, manifest, index)
        return manifest

    return together(exchange, Path(folder) / NAME, read)


def together(exchange: Exchange | None, where: Path, work: Callable[[], Result]) -> Result:
    """Do this rank's part of reading a state. What fails on one rank is raised on all of them, so that all go on alike.
    A collective, if there is an exchange. where: named in errors that name no file.

    Raises:
        DamagedState: a file could not be read, or is damaged, on any rank. StateMismatch, StateError: as `work`.
    """
    result, failure = None, None
    try:
        result = work()
    except StateError as error:
        failure = [type(error).__name__, str(error)]
    except (OSError, SafetensorError) as error:
        problem = getattr(error, "strerror", None) or error
        failure = [DamagedState.__name__, f"{getattr(error, 'filename', None) or where} cannot be read: {problem}."]
    except Exception as error:  # raised here as it is; the others must not wait for this rank
        failure = [StateError.__name__, f"{where}: {type(error).__name__}: {error}"]
        if exchange is None:
            raise
        exchange.gather(failure)
        raise
    for found in [failure] if exchange is None else exchange.gather(failure):
        if found is not None:
            raise ERRORS[found[0]](found[1])
    return result


class StateReader:
    """The tensors of the state in `folder`. Use as a context manager."""

    def __init__(self, folder: Path, manifest: Manifest | None = None):
        self.folder = Path(folder)
        self.manifest = manifest or read_manifest(self.folder)
        self._open: dict[int, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> StateReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._open.clear()

    def check_headers(self) -> None:
        """Raise DamagedState unless every file's header says what the manifest says."""
        for index in range(len(self.manifest.files)):
            self._file(index)

    def segments(self, name: str, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Elements `[start, stop)` of a tensor as (offset from `start`, flat CPU values), at most CHUNK at a time."""
        for part in self.manifest.tensors[name].parts:
            low, high = max(start, part.start), min(stop, part.stop)
            for begin in range(low, high, CHUNK):
                end = min(begin + CHUNK, high)
                yield begin - start, self._slice(part.file, name, begin - part.start, end - part.start)

    def values(self, name: str, start: int, stop: int) -> Tensor:
        """Elements `[start, stop)` of a tensor, flat, on the CPU."""
        found = torch.empty(stop - start, dtype=DTYPES[self.manifest.tensors[name].dtype])
        for begin, values in self.segments(name, start, stop):
            found[begin : begin + len(values)] = values
        return found

    def tensor(self, name: str) -> Tensor:
        """A whole tensor in its shape, on the CPU."""
        facts = self.manifest.tensors[name]
        return self.values(name, 0, facts.numel).view(facts.shape)

    def _slice(self, file: int, name: str, start: int, stop: int) -> Tensor:
        try:
            return self._file(file).get_slice(name)[start:stop]
        except SafetensorError as error:
            raise DamagedState(f"{self.folder / self.manifest.files[file].name}: {error}.") from None

    def _file(self, index: int) -> Any:
        if index not in self._open:
            path = self.folder / self.manifest.files[index].name
            try:
                opened = self._stack.enter_context(safe_open(path, framework="pt"))
                found = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                facts = {name: (s.get_dtype(), s.get_shape()) for name, s in found.items()}
            except (SafetensorError, OSError) as error:
                raise DamagedState(f"{path}: {error}.") from None
            if facts != self._expected(index):
                raise DamagedState(f"{path}: its header does not say what the manifest says.")
            self._open[index] = opened
        return self._open[index]

    def _expected(self, index: int) -> dict[str, tuple[str, list[int]]]:
        return {
            name: (tensor.dtype, [part.stop - part.start])
            for name, tensor in self.manifest.tensors.items()
            for part in tensor.parts
            if part.file == index
        }


def check_fits(manifest: Manifest, pieces: Sequence[Piece], where: str) -> None:
    """Raise StateMismatch, with every difference, unless all pieces can be read from a state."""
    wrong = []
    for piece in pieces:
        facts = manifest.tensors.get(piece.name)
        if facts is None:
            wrong.append(f"'{piece.name}' is not in the state")
        elif facts.shape != piece.shape:
            wrong.append(f"'{piece.name}' has the shape {list(facts.shape)} in the state, {list(piece.shape)} here")
        elif DTYPES[facts.dtype].is_floating_point != piece.dtype.is_floating_point:
            wrong.append(f"'{piece.name}' is {facts.dtype} in the state, {piece.dtype} here")
    if wrong:
        more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
        raise StateMismatch(f"{where} is a state of another training: {'; '.join(wrong[:5])}{more}.")


def restore(reader: StateReader, pieces: Sequence[Piece]) -> None:
    """Give every piece its values. The pieces fit (`check_fits`)."""
    for piece in pieces:
        for begin, values in reader.segments(piece.name, piece.start, piece.stop):
            piece.write(begin, values)
