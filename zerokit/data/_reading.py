"""Files of text and of rows, plain or compressed, in order; what is wrong is told with file and line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from zerokit.config.errors import ConfigError
from zerokit.config.files import is_saved_dataset

BLOCK = 1 << 20
ROW_FILES = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow")
TEXT_FILES = (".txt", ".md", ".rst", ".text")


class BadRow(ValueError):
    """A row that cannot be used: what was expected, and what came."""


class Row(NamedTuple):
    """A row of a file. values: its fields, or why it has none. place: FILE:LINE."""

    values: dict[str, Any] | BadRow
    place: str
    bytes: int


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, uncompressed if its name ends in `.gz`.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError) as error:
        raise ConfigError(f"data.files: {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error


def size_of(path: Path) -> int:
    """Bytes of a file, uncompressed."""
    if path.suffix != ".gz":
        return path.stat().st_size
    with opened(path) as file:
        return sum(len(block) for block in iter(lambda: file.read(BLOCK), b""))


def text_blocks(path: Path, lines: bool) -> Iterator[bytes]:
    """A file's bytes in blocks of about 1 MiB; lines: each ends with a line, so that no word is cut."""
    with opened(path) as file:
        while block := file.read(BLOCK):
            yield block + file.readline() if lines else block


def rows(path: Path) -> Iterator[Row]:
    """The rows of a file: JSON by line or a list of it, parquet, or a folder that `datasets` has saved."""
    name = path.name.removesuffix(".gz")
    if path.is_dir():
        assert is_saved_dataset(path)
        yield from _table(path, _saved)
    elif name.endswith(".parquet"):
        yield from _table(path, _parquet)
    elif name.endswith(".arrow"):
        yield from _table(path, _arrow)
    elif name.endswith(".json"):
        yield from _list(path)
    else:
        yield from _lines(path)


def _lines(path: Path) -> Iterator[Row]:
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield Row(_object(line), f"{path}:{number}", len(line))


def _object(line: bytes) -> dict[str, Any] | BadRow:
    try:
        return _fields(json.loads(line))
    except UnicodeDecodeError as error:
        return BadRow(f"expected UTF-8, but byte {error.start + 1} is none")
    except ValueError as error:
        return BadRow(f"expected a JSON object in one line, but it is no JSON ({error})")
    except RecursionError:
        return BadRow("expected a JSON object in one line, but it is nested too deep")


def _fields(value: Any) -> dict[str, Any] | BadRow:
    if isinstance(value, dict):
        return value
    return BadRow(f"expected a JSON object such as {{...}}, got {type(value).__name__} {str(value)[:40]!r}")


def _list(path: Path) -> Iterator[Row]:
    """A file with one JSON list, or, as many are named so, with an object in each line."""
    with opened(path) as file:
        whole = file.read(BLOCK).lstrip()[:1] == b"["
    if not whole:
        yield from _lines(path)
        return
    with opened(path) as file:
        content = file.read()
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"data.files: {path} is no JSON: {error}.") from error
    for number, value in enumerate(values, 1):
        yield Row(_fields(value), f"{path}: entry {number}", len(content) // max(1, len(values)))


def _table(path: Path, batches: Callable[[Path], Iterator[Any]]) -> Iterator[Row]:
    """Rows of what pyarrow reads batch by batch."""
    number = 0
    try:
        for batch in batches(path):
            share = batch.nbytes // max(1, batch.num_rows)
            for values in batch.to_pylist():
                number += 1
                yield Row(values, f"{path}: row {number}", share)
    except ImportError as error:
        raise ConfigError(f"data.files: {path} needs the package pyarrow: pip install 'zerokit[parquet]'.") from error
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors are among them
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"data.files: {path} cannot be read after row {number}: {error}.") from error


def _parquet(path: Path) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        yield from file.iter_batches()


def _arrow(path: Path) -> Iterator[Any]:
    from pyarrow import ipc, memory_map

    with memory_map(str(path)) as source, ipc.open_stream(source) as stream:
        yield from stream


def _saved(path: Path) -> Iterator[Any]:
    """A folder that `datasets` has saved; of one with several splits, `train`."""
    if (path / "dataset_dict.json").is_file():
        path = path / "train"
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    for entry in state["_data_files"]:
        yield from _arrow(path / entry["filename"])
