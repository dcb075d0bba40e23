"""Files that people and runs leave: those of data, and small JSON and YAML files, perhaps half written."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import Any

from zerokit.config.errors import ConfigError, naming
from zerokit.config.suspect import parse_json, read_text
from zerokit.config.terminal import printable

log = logging.getLogger(__name__)

DRAFT = re.compile(r"\..+-\d+\.tmp")
"""Name of a file before it takes the place of another."""


def read_mapping(path: Path, parse: Callable[[str], Any] = parse_json) -> dict[str, Any]:
    """The mapping in a file, by `parse_json` or `parse_yaml`; empty if there is no such file, and with a warning if it
    cannot be read."""
    if not path.is_file():
        return {}
    try:
        values = parse(read_text(path))
    except FileNotFoundError:  # it was removed just now
        return {}
    except (OSError, ValueError) as problem:
        _warn(path.absolute(), path, (str(problem) or type(problem).__name__).splitlines()[0])
        return {}
    if not isinstance(values, dict):
        _warn(path.absolute(), path, f"expected keys with values, found {type(values).__name__}")
        return {}
    return values


def replace_text(path: Path, text: str, durable: bool = False) -> None:
    """Replace a file in one move, so that a reader never sees half of it, nor does one after a power loss if `durable`.
    A link of this name is replaced, and none is followed.

    Raises:
        OSError: naming the file; nothing is left behind.
    """
    draft = path.with_name(f".{path.name}-{os.getpid()}.tmp")
    try:
        with naming(path):
            draft.unlink(missing_ok=True)
            descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o644)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def remove_drafts(folder: Path) -> None:
    """Remove what `replace_text` has left in a folder when its process was killed; nobody may be writing there."""
    with suppress(OSError):
        for path in folder.glob(".*-*.tmp"):
            if DRAFT.fullmatch(path.name):
                path.unlink(missing_ok=True)


def refuse_links(folder: Path, below: Iterable[str] = ()) -> None:
    """Refuse a folder to write into in which a link would lead elsewhere; the folder itself may be reached by one.

    below: names of folders in it that are looked into as well.

    Raises:
        ConfigError: naming the link.
    """
    for place in (folder, *(folder / name for name in below)):
        if not place.is_dir():
            continue
        for entry in os.scandir(place):
            if entry.is_symlink():
                raise ConfigError(
                    f"{entry.path} is a link, and nothing is written through links in the folder of a run: remove it, "
                    "or choose another folder with hydra.run.dir=DIR."
                )


@lru_cache
def _warn(_: Path, path: Path, problem: str) -> None:
    """Once for each file and problem: tables of a sweep read the files of its cells again and again."""
    log.warning("%s was left out: %s", printable(str(path)), printable(problem))


TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
    "chat_template.jinja",
)  # fmt: skip
"""What a folder may hold of a tokenizer."""


def tokenizer_files(given: str) -> list[Path]:
    """The files of the tokenizer in the folder, or of the file, that `data.tokenizer` names.

    Raises:
        ConfigError: there are none.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        found = [path / name for name in TOKENIZER_FILES if (path / name).is_file()]
        if not any(file.name.split(".")[0] not in ("special_tokens_map", "chat_template") for file in found):
            raise ConfigError(
                f"data.tokenizer: the folder {given} has no tokenizer (tokenizer.json, tokenizer.model, …). Give a "
                "folder that has one, a tokenizer.json, or data.tokenizer=bytes."
            )
        return found
    if not path.is_file():
        raise ConfigError(
            f"data.tokenizer: there is no folder or file '{given}' (looked from {Path.cwd()}). Give a folder with a "
            "tokenizer, a tokenizer.json, or data.tokenizer=bytes."
        )
    beside = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
    return [path, *(file for name in beside if (file := path.parent / name).is_file())]


def matching_files(key: str, patterns: list[str], endings: tuple[str, ...] = ()) -> list[Path]:
    """Files that `patterns` (paths, globs, folders; `**` and `~` allowed), the value of `key`, name, sorted, each once.

    endings: of the files that count in a folder, at any depth; each also with `.gz`. A folder that the library
    `datasets` has saved counts itself.

    Raises:
        ConfigError: one of them names no file.
    """
    found: set[Path] = set()
    for pattern in patterns:
        named = Path(pattern).expanduser()
        paths = [Path(match) for match in glob(str(named), recursive=True)]
        files = [file for path in paths for file in _files(path, endings if path == named else ())]
        if not files:
            hint = (
                f"that folder has no file that ends in {', '.join(endings)}" if paths else f"looked from {Path.cwd()}"
            )
            raise ConfigError(f"{key}: no file matches {pattern!r} ({hint}).")
        found.update(path.resolve() for path in files)
    return sorted(found)


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder is one that the library `datasets` has saved."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def _files(path: Path, endings: tuple[str, ...]) -> list[Path]:
    if not path.is_dir():
        return [path] if path.is_file() else []
    if ".arrow" in endings and is_saved_dataset(path):
        return [path]
    names = tuple(ending + more for ending in endings for more in ("", ".gz"))
    return [file for file in path.rglob("*") if file.is_file() and file.name.endswith(names)] if names else []
