"""What the table of DeepSpeed's keys is written in. No torch."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin

FORMAT = Literal["fp32", "bf16", "fp16"] | None
LEAVE: Any = object()
"""What `Row.value` returns where zerokit's own default is to stay."""


def as_meant(kind: Any, value: Any) -> Any:
    """A value as its kind has it, where people write 1 and 0 for true and false, numbers in quotes, 10.0 for 10."""
    kinds = get_args(kind) if isinstance(kind, types.UnionType) or get_origin(kind) in (Union, Literal) else (kind,)
    wanted = {type(one) if not (isinstance(one, type) or get_origin(one)) else get_origin(one) or one for one in kinds}
    if isinstance(value, list | tuple) and list in wanted:
        inner = next((get_args(one) for one in kinds if get_origin(one) is list), ())
        return [as_meant(inner[0], item) for item in value] if inner else value
    if bool in wanted and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if isinstance(value, str) and str in wanted:
        return value.lower() if get_origin(kind) is Literal and value not in kinds else value
    if isinstance(value, str) and wanted & {int, float, bool}:
        try:
            value = float(value)
        except ValueError:
            return value
    if isinstance(value, float) and value.is_integer() and float not in wanted:
        value = int(value)
    return bool(value) if bool in wanted and not wanted & {int, float} and value in (0, 1) else value


def same(value: Any) -> Any:
    """The value as it is."""
    return value


@dataclass(frozen=True)
class Row:
    """One key of a DeepSpeed configuration.

    key: dotted path (of a parameter of an optimizer or scheduler: its name). kind: annotation of its values; a section
        that is not looked into is a dict. note: one line for people. default: DeepSpeed's.
    to: key of zerokit's configuration, with `value` from DeepSpeed's value to zerokit's.
    fixed: what else of zerokit's configuration is set with it.
    needs: `key=value` of zerokit's configuration without which the key has no effect.
    accepts: values that ask for nothing; others are refused, with the note. None: every value is accepted.
    auto: what "auto" stands for. "none": not given; "nothing": any value of a key without meaning; "dtype": whether the
        model has that format; "optimizer": the optimizer's own. Empty: an error.
    script: the engine of a script acts on it.
    """

    key: str
    kind: Any
    note: str
    default: Any = None
    to: str = ""
    value: Callable[[Any], Any] = same
    fixed: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""
    accepts: tuple | None = None
    auto: str = ""
    script: bool = False


def moot(key: str, kind: Any, note: str) -> Row:
    """A key without meaning here."""
    return Row(key, kind, note, auto="nothing")


def moots(section: str, note: str, *keys: str) -> tuple[Row, ...]:
    """The keys of a section without meaning here."""
    return tuple(moot(f"{section}.{key}", Any, note) for key in keys)


def refused(key: str, kind: Any, note: str, *accepts: Any) -> Row:
    """A key that would change the results, or promises what is not there."""
    return Row(key, kind, note, accepts=(*accepts, None))


def off(section: str, note: str) -> Row:
    """A section that must not be enabled; while it is not, nothing in it is looked at."""
    return Row(section, dict, note, accepts=())


def when(on: str | bool) -> Callable[[bool], Any]:
    """`on` for true; for false whatever was there before."""
    return lambda value: on if value else LEAVE


def positive(value: float) -> float | None:
    """None for DeepSpeed's 0."""
    return value or None


def scale_of(power: int) -> float:
    """The loss scale that `initial_scale_power` stands for."""
    return float(2**power)


def group_of(size: int) -> Any:
    """Processes of a group; DeepSpeed's 1 and -1 make none."""
    return size if size > 1 else LEAVE


def home_of(device: str) -> Any:
    """Where optimizer states lie."""
    return "states" if device == "cpu" else LEAVE


def finite(steps: float | None) -> Any:
    """A number of steps, left alone where it is never reached."""
    return LEAVE if steps in (None, float("inf")) else int(steps)


def format_of(name: str | None) -> str:
    """fp32 where DeepSpeed would take the format of the weights."""
    return name or "fp32"


@dataclass(frozen=True)
class Kind:
    """What one `type` of optimizer or scheduler becomes.

    name: in zerokit's group. note: one line for people. rows: its `params`. fixed: options that the type stands for.
    others: the option that takes all other parameters, None: there are no others. refused: why there is no such type,
    with the alternative.
    """

    name: str = ""
    note: str = ""
    rows: tuple[Row, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    others: str | None = None
    refused: str = ""


def taken(key: str, kind: Any, note: str, default: Any, to: str, value: Callable[[Any], Any] = same) -> Row:
    """A parameter of an optimizer, whose "auto" is the value of the optimizer that the script gives."""
    return Row(key, kind, note, default, to, value, auto="optimizer")


def betas(first: float = 0.9, second: float = 0.999) -> tuple[Row, Row]:
    """Two decays, which DeepSpeed gives as a pair."""
    pair = [first, second]
    return (
        taken("betas", list[float], "decay of the first moment", pair, "beta1", lambda b: b[0]),
        taken("betas", list[float], "decay of the second moment", pair, "beta2", lambda b: b[1]),
    )


def along(key: str, kind: Any, note: str, default: Any, auto: str = "") -> Row:
    """A parameter of a scheduler, which zerokit's has too."""
    return Row(key, kind, note, default, key, auto=auto)
