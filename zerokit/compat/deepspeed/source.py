"""Reading a DeepSpeed configuration: a dict, the path of a JSON file, or JSON in base64. Imports no torch."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from zerokit.config.errors import ConfigError
from zerokit.config.parse import spell
from zerokit.config.suspect import LONGEST_NUMBER, bounded


def load(source: Any) -> dict[str, Any]:
    """The keys and values of a configuration.

    Raises:
        ConfigError: it is neither a dict, nor a path, nor base64, or a key is given twice.
    """
    if isinstance(source, Mapping):
        return dict(source)
    if not isinstance(source, str | os.PathLike):
        raise ConfigError(f"A DeepSpeed configuration is a dict, a path or base64; got {type(source).__name__}.")
    if os.path.isdir(source):
        raise ConfigError(f"{os.fspath(source)}: expected a file, this is a folder.")
    if os.path.exists(source):
        if not os.path.isfile(source):
            raise ConfigError(f"{os.fspath(source)}: expected a plain file.")
        return _read(_text(source), os.fspath(source))
    if not os.fspath(source):
        raise ConfigError("A DeepSpeed configuration is a dict, a path or base64; got an empty text.")
    try:
        text = base64.b64decode(os.fspath(source), altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise ConfigError(f"{source}: there is no such file, and it is not JSON in base64.") from error
    return _read(text, "base64")


def _text(path: str | os.PathLike) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"{os.fspath(path)}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{os.fspath(path)}: expected JSON in UTF-8; byte {error.start} is not.") from error


def _read(text: str, name: str) -> dict[str, Any]:
    try:
        values = json.loads(text, object_pairs_hook=_unique, parse_int=_whole, parse_float=_number,
                            parse_constant=_number)  # fmt: skip
    except json.JSONDecodeError as error:
        values = _read_hjson(text, name, error)
    except RecursionError:
        raise ConfigError(f"{name}: lists or mappings are too deep within each other.") from None
    try:
        bounded(values)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: expected keys with values {{...}}, got {spell(values)}.")
    return values


def _read_hjson(text: str, name: str, problem: json.JSONDecodeError) -> Any:
    """JSON with comments and without quotes, by the library that DeepSpeed uses."""
    try:
        import hjson
    except ImportError:
        raise ConfigError(
            f"{name}, line {problem.lineno}, column {problem.colno}: {problem.msg}. "
            "If it is HJSON, which has comments: pip install hjson."
        ) from problem
    try:
        return hjson.loads(text, object_pairs_hook=_unique, parse_int=_whole, parse_float=_number)
    except hjson.HjsonDecodeError as error:
        raise ConfigError(f"{name}, line {error.lineno}, column {error.colno}: {error.msg}.") from error


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ConfigError(f"{digits[:20]}…, of {len(digits)} digits, is no figure of a training.")
    return int(digits)


def _number(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ConfigError(f"{text} is no finite number.")
    return float(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ConfigError(f"The key '{key}' is given twice: {spell(values[key])} and {spell(value)}.")
        values[key] = value
    return values
