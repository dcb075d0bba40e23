"""What a state consists of: `manifest.json`, read with suspicion. Imports no torch.

The file is `{"manifest":BODY,"sha256":"…"}`, where the digest is that of the bytes of BODY, so every byte of the file
is covered. BODY says which elements of which tensor lie in which file, and the length and digest of each file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zerokit.state.errors import DamagedState, StateError

NAME = "manifest.json"
FORMAT, VERSION = "zerokit-state", 1
MOST_BYTES = 1 << 30
"""A manifest above this length is refused before it is read."""
MOST_HEADER = 100_000_000
"""Bytes of the header of a safetensors file at most, as its library has it."""
FACTS: dict[str, type] = {
    "training": dict, "trainer": dict, "callbacks": dict, "config": dict, "tracker": dict, "best": dict,
    "step": int, "world": int,
}  # fmt: skip
"""What facts are, where they are there."""
WORDS = {dict: "an object", int: "a count"}
ITEMSIZE = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
"""Bytes of an element by name of its format in safetensors."""
_FILE = re.compile(r"rank-\d{5}-of-\d{5}\.safetensors")
_PREFIX, _MIDDLE, _SUFFIX = b'{"manifest":', b',"sha256":"', b'"}\n'


@dataclass(frozen=True)
class FileFacts:
    """Name, length and XXH3-128 digest of a rank's file."""

    name: str
    bytes: int
    xxh3: str


@dataclass(frozen=True)
class Part:
    """Elements `[start, stop)` of a tensor in row-major order, in file number `file`."""

    file: int
    start: int
    stop: int


@dataclass(frozen=True)
class TensorFacts:
    """Format, shape and parts of a tensor; the parts lie in ascending order and cover it without gap or overlap."""

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Manifest:
    """A state. `facts` describe how it was made (step, world, stage, …), `user` is what the caller gave: both JSON."""

    files: tuple[FileFacts, ...]
    tensors: dict[str, TensorFacts]
    facts: dict[str, Any] = field(default_factory=dict)
    user: Any = None

    @property
    def bytes(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file.bytes for file in self.files)

    @property
    def digest(self) -> str:
        """Digest of the manifest, and so of the whole state."""
        return hashlib.sha256(self.encode()).hexdigest()

    def encode(self) -> bytes:
        """The contents of `manifest.json`."""
        tensors = {
            name: {"dtype": t.dtype, "shape": t.shape, "parts": [(p.file, p.start, p.stop) for p in t.parts]}
            for name, t in sorted(self.tensors.items())
        }
        body = {
            "format": FORMAT,
            "version": VERSION,
            "facts": self.facts,
            "user": self.user,
            "files": [asdict(file) for file in self.files],
            "tensors": tensors,
        }
        text = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        return _PREFIX + text + _MIDDLE + hashlib.sha256(text).hexdigest().encode() + _SUFFIX


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the state in `folder`, checked in itself and against the lengths of the files.

    Raises:
        DamagedState: it is missing, altered or malformed, or a file is missing, cut or no plain file.
        StateError: it was written by another version of the format.
    """
    path = Path(folder) / NAME
    if not path.parent.exists():
        raise DamagedState(f"There is no folder {path.parent}; expected a state.")
    manifest = decode(_read(path), str(path))
    for file in manifest.files:
        length = plain_file_length(Path(folder) / file.name)
        if length != file.bytes:
            raise DamagedState(f"{Path(folder) / file.name}: expected {file.bytes} bytes, found {length}.")
    return manifest


def plain_file_length(path: Path) -> int:
    """Bytes of a file.

    Raises:
        DamagedState: it is missing, or a link or anything else that is no plain file.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        raise DamagedState(f"{path} is missing.") from None
    if not stat.S_ISREG(found.st_mode):
        raise DamagedState(f"{path} is no plain file.")
    return found.st_size


def _read(path: Path) -> bytes:
    length = plain_file_length(path)
    if length > MOST_BYTES:
        raise DamagedState(f"{path} is longer than any manifest.")
    with open(path, "rb") as file:  # a file of zeros that takes no room on the disk shall take none in memory
        head = file.read(len(_PREFIX))
        file.seek(max(0, length - len(_SUFFIX)))
        if head != _PREFIX or file.read(len(_SUFFIX)) != _SUFFIX:
            raise DamagedState(f"{path}: its contents do not match its digest: it is cut or altered.")
        file.seek(0)
        return file.read(length)


def decode(data: bytes, where: str) -> Manifest:
    """The manifest in the bytes of `manifest.json`; `where` is named in errors."""
    head, tail = data[: len(_PREFIX)], data[-len(_SUFFIX) :]
    digest = data[-len(_SUFFIX) - 64 : -len(_SUFFIX)]
    end = len(data) - len(_SUFFIX) - 64 - len(_MIDDLE)
    framed = end > len(_PREFIX) and head == _PREFIX and tail == _SUFFIX and data[end : end + len(_MIDDLE)] == _MIDDLE
    body = data[len(_PREFIX) : max(end, 0)]
    if not framed or hashlib.sha256(body).hexdigest().encode() != digest:
        raise DamagedState(f"{where}: its contents do not match its digest: it is cut or altered.")
    try:
        values = json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DamagedState(f"{where} is no valid JSON: {error}.") from None
    try:
        return _checked(values, where)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedState(f"{where} is malformed: {type(error).__name__} {error}.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key appears twice")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _checked(values: dict[str, Any], where: str) -> Manifest:
    if values["format"] != FORMAT:
        raise DamagedState(f"{where}: the format is {values['format']!r}, expected {FORMAT!r}.")
    if values["version"] != VERSION:
        raise StateError(
            f"{where}: version {values['version']!r} of the format; this zerokit reads version {VERSION}. Use the "
            f"zerokit that wrote it ({values['facts'].get('zerokit', 'unknown')})."
        )
    files = tuple(FileFacts(f["name"], _count(f["bytes"], where), str(f["xxh3"])) for f in values["files"])
    names = [file.name for file in files]
    wrong = [name for name in names if not (isinstance(name, str) and _FILE.fullmatch(name))]
    if wrong or len(set(names)) != len(names):
        raise DamagedState(f"{where}: {(wrong or names)[0]!r} cannot be the name of a file of a state.")
    tensors = {name: _tensor(name, t, len(files), where) for name, t in values["tensors"].items()}
    _check_facts(values["facts"], where)
    _check_lengths(files, tensors, where)
    return Manifest(files, tensors, values["facts"], values["user"])


def _check_facts(facts: Any, where: str) -> None:
    """Raise DamagedState for facts of another kind than those that decide how a training goes on."""
    if not isinstance(facts, dict):
        raise DamagedState(f"{where}: facts must be an object.")
    for key, kind in FACTS.items():
        value = facts.get(key)
        wrong = not isinstance(value, kind) or isinstance(value, bool) or (kind is int and not 0 <= value < 1 << 62)
        if key in facts and wrong:
            raise DamagedState(f"{where}: facts.{key} must be {WORDS[kind]}, found {str(value)[:40]!r}.")
    for section, value in facts.get("config", {}).items():
        if not isinstance(value, (dict, type(None))):
            raise DamagedState(f"{where}: facts.config.{section} must be an object, found {str(value)[:40]!r}.")


def _check_lengths(files: tuple[FileFacts, ...], tensors: dict[str, TensorFacts], where: str) -> None:
    """Raise DamagedState if a file cannot have its length, before anybody reads it: the tensors and a header."""
    data = [0] * len(files)
    for tensor in tensors.values():
        for part in tensor.parts:
            data[part.file] += (part.stop - part.start) * ITEMSIZE[tensor.dtype]
    for file, size in zip(files, data, strict=True):
        if not size <= file.bytes <= size + MOST_HEADER:
            raise DamagedState(f"{where}: {file.name} is said to have {file.bytes} bytes, and its tensors take {size}.")


def _tensor(name: str, values: dict[str, Any], files: int, where: str) -> TensorFacts:
    if values["dtype"] not in ITEMSIZE:
        raise DamagedState(f"{where}: '{name}' has the unknown format {values['dtype']!r}.")
    shape = tuple(_count(size, where) for size in values["shape"])
    parts = tuple(Part(*(_count(number, where) for number in part)) for part in values["parts"])
    tensor = TensorFacts(values["dtype"], shape, parts)
    check_cover(name, tensor, files, where)
    return tensor


def check_cover(name: str, tensor: TensorFacts, files: int, where: str) -> None:
    """Raise DamagedState unless the parts of a tensor cover it exactly once."""
    reached, seen = 0, set()
    for part in tensor.parts:
        if part.start != reached or part.stop <= part.start:
            kind = "overlap" if part.start < reached else "leave a gap"
            raise DamagedState(f"{where}: the parts of '{name}' {kind} at element {min(reached, part.start)}.")
        if part.file >= files or part.file in seen:
            raise DamagedState(f"{where}: a part of '{name}' names file {part.file}, which cannot hold it.")
        seen.add(part.file)
        reached = part.stop
    if reached != tensor.numel:
        raise DamagedState(f"{where}: the parts of '{name}' end at element {reached} of {tensor.numel}.")


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise DamagedState(f"{where}: expected a count, found {value!r}.")
    return value
