"""Typed values from plain ones: each field of a dataclass checked against its annotation."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Callable, Iterable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from zerokit.config.errors import ConfigError, suggestion
from zerokit.config.usual import instead

LARGEST = 1e150


def parse_fields(kind: type, values: dict[str, Any], path: str) -> Any:
    """Return an instance of the dataclass `kind` with the given values and its defaults for the rest.

    A field whose name ends in an underscore (because the name is a Python keyword) has a key without it.

    Args:
        kind: a dataclass; its fields may be bool, int, float, str, Literal, unions, list, tuple, dict or dataclasses.
        values: plain values by key.
        path: key of this section, for messages.

    Raises:
        ConfigError: if a key is unknown, or a value has a wrong type or is refused by the dataclass.
    """
    hints = get_type_hints(kind)
    known = {_key(field): field.name for field in dataclasses.fields(kind)}
    parsed = {}
    for key, value in values.items():
        if key not in known:
            raise unknown_key(path, key, known)
        parsed[known[key]] = parse_value(hints[known[key]], value, f"{path}.{key}")
    try:
        return kind(**parsed)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}.{error}" if _starts_with_key(str(error), known) else f"{path}: {error}") from error


def parse_value(kind: Any, value: Any, key: str) -> Any:
    """Return `value` as the annotated type `kind`.

    Whole floats count as int, int as float, and numbers as text; nothing else is converted.

    Raises:
        ConfigError: naming `key` and what is allowed.
    """
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise _wrong(kind, value, key)
        return parse_fields(kind, value, key)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _parse_union(kind, value, key)
    if origin is Literal:
        return _parse_literal(kind, value, key)
    if origin in (list, tuple, dict) or kind in (list, tuple, dict):
        return _parse_container(kind, value, key)
    return _parse_scalar(kind, value, key)


def defaults(kind: type) -> dict[str, Any]:
    """Return the default of every field of a dataclass as plain values, also of one that must be given some option."""
    values = {}
    for field in dataclasses.fields(kind):
        value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        values[_key(field)] = to_plain(value)
    return values


def to_plain(value: Any) -> Any:
    """Return dataclasses, lists and tuples as dicts and lists, with keys as `parse_fields` takes them."""
    if dataclasses.is_dataclass(value):
        return {_key(field): to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def describe(kind: Any) -> str:
    """Return the type of an option in words, such as `a number or null`."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", types.NoneType: "null"}
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(item) for item in get_args(kind))
    if origin is Literal:
        return "one of " + ", ".join(spell(item) for item in get_args(kind))
    if kind in words:
        return words[kind]
    if origin is list or origin is tuple or kind in (list, tuple):
        return "a list [A, B]"
    return "keys with values {KEY: VALUE}"


def spell(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(spell(item) for item in value)}]"
    return str(value)


PLAIN = re.compile(r"(?!(?:null|true|false|inf|nan)\Z)[a-z_/][\w./-]*", re.ASCII | re.IGNORECASE)


def quoted(text: str) -> str:
    """Return a text as Hydra reads it on the command line: in quotes unless it is a plain word or path."""
    if PLAIN.fullmatch(text):
        return text
    text = re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text)
    return '"' + text.replace("${", "\\${") + '"'


def unknown_key(path: str, key: str, allowed: Iterable[str]) -> ConfigError:
    """Return the error for a key that does not exist in the section `path`."""
    allowed = list(allowed)
    prefix = f"{path}." if path else ""
    if key == "_target_":
        return ConfigError(
            f"{prefix}_target_ is not allowed: a config names registered components, never code. "
            'Register it with @zerokit.register(GROUP, "NAME") and choose it with GROUP=NAME.'
        )
    where = f"Options of {path}" if path else "Top-level keys"
    options = ", ".join(allowed) if allowed else "none"
    hint = f" Write {write}." if (write := instead(str(key))) else suggestion(str(key), allowed, prefix)
    return ConfigError(f"Unknown key {prefix}{key}.{hint} {where}: {options}.")


def _parse_union(kind: Any, value: Any, key: str) -> Any:
    members = get_args(kind)
    if value is None and types.NoneType in members:
        return None
    members = tuple(member for member in members if member is not types.NoneType)
    if len(members) == 1 and dataclasses.is_dataclass(members[0]):
        return parse_value(members[0], value, key)
    exact = [member for member in members if type(value) is member]
    for member in exact or members:
        try:
            return parse_value(member, value, key)
        except ConfigError:
            continue
    raise _wrong(kind, value, key)


def _parse_literal(kind: Any, value: Any, key: str) -> Any:
    allowed = get_args(kind)
    for item in allowed:
        if type(item) is type(value) and item == value:
            return item
    names = [spell(item) for item in allowed]
    if value in names:  # a text that looks like one of them
        raise ConfigError(f"{key}: expected {describe(kind)}; got the text '{value}'. Write it without quotes.")
    hint = suggestion(value, names) if isinstance(value, str) else ""
    raise ConfigError(f"{key}: expected {describe(kind)}; got {spell(value)}.{hint}")


def _parse_container(kind: Any, value: Any, key: str) -> Any:
    origin = get_origin(kind) or kind
    arguments = [item for item in get_args(kind) if item is not Ellipsis]
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(kind, value, key)
        item_kind = arguments[1] if arguments else Any
        return {name: parse_value(item_kind, item, f"{key}.{name}") for name, item in value.items()}
    if not isinstance(value, (list, tuple)):
        raise _wrong(kind, value, key)
    if origin is tuple and len(arguments) > 1:
        if len(value) != len(arguments):
            raise ConfigError(f"{key}: expected {len(arguments)} values, got {len(value)}: {spell(value)}.")
        return tuple(
            parse_value(k, item, f"{key}[{i}]") for i, (k, item) in enumerate(zip(arguments, value, strict=True))
        )
    item_kind = arguments[0] if arguments else Any
    return origin(parse_value(item_kind, item, f"{key}[{i}]") for i, item in enumerate(value))


def _parse_scalar(kind: Any, value: Any, key: str) -> Any:
    accepted: dict[Any, Callable[[Any], bool]] = {
        bool: lambda v: isinstance(v, bool),
        int: lambda v: is_number(v) and math.isfinite(v) and v == int(v),
        float: is_number,
        str: lambda v: isinstance(v, str) or is_number(v),
        types.NoneType: lambda v: v is None,
    }
    assert kind in accepted, f"{key} has an unsupported type {kind}"
    if not accepted[kind](value):
        raise _wrong(kind, value, key)
    return None if value is None else kind(value)


def is_number(value: Any) -> bool:
    """Whether a value read from a file is a number; to Python, a bool is one too."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def as_number(value: Any) -> float | None:
    """A number read from a file as a float, None for anything else. One so large or small that sums and ratios of such
    numbers are not finite (`LARGEST`, or its inverse) counts as infinite or 0."""
    if not is_number(value):
        return None
    if abs(value) > LARGEST:
        return math.inf if value > 0 else -math.inf
    return 0.0 if abs(value) < 1 / LARGEST else float(value)


def finite(value: Any) -> float | None:
    """`as_number` if that is finite, else None."""
    number = as_number(value)
    return number if number is not None and math.isfinite(number) else None


def _wrong(kind: Any, value: Any, key: str) -> ConfigError:
    return ConfigError(f"{key}: expected {describe(kind)}; got {spell(value)}.")


def _key(field: dataclasses.Field) -> str:
    return field.name.removesuffix("_")


def _starts_with_key(message: str, keys: Iterable[str]) -> bool:
    return any(message.startswith((f"{key} ", f"{key}=", f"{key}:")) for key in keys)
