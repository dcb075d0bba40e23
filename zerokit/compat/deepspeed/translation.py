"""A DeepSpeed configuration in zerokit's terms, by the table. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from zerokit.compat.deepspeed.rows import FORMAT, LEAVE, Kind, Row, as_meant
from zerokit.compat.deepspeed.table import ALIASES, OPTIMIZERS, ROWS, SCHEDULERS, optimizer_kind
from zerokit.config.errors import ConfigError, suggestion
from zerokit.config.parse import parse_value, quoted, spell

GROUPS = ("zero", "precision", "optimizer", "scheduler", "checkpointing", "tracker")
KINDS = {"optimizer": OPTIMIZERS, "scheduler": SCHEDULERS}
LEAVES = {row.key: row for row in ROWS}
KNOWN = {*LEAVES, *(f"{kind}.{key}" for kind in KINDS for key in ("type", "params"))}
SECTIONS = {key[:end] for key in KNOWN for end, letter in enumerate(key) if letter == "."}
DOCUMENT = "docs/deepspeed.md lists all keys."


@dataclass(frozen=True)
class Facts:
    """What "auto" is resolved from: the format of the model's parameters ("fp32", …) and the hyperparameters of the
    optimizer that was given; None where there is none. acts: whether the engine of a script does what the command line
    has no word for."""

    dtype: str | None = None
    optimizer: Mapping[str, Any] | None = None
    acts: bool = False


@dataclass(frozen=True)
class Note:
    """What a key became: `KEY=VALUE` of zerokit, or nothing, and a line for people."""

    key: str
    value: Any
    became: str
    text: str


@dataclass
class Translation:
    """A configuration in zerokit's terms.

    settings: values by key, as on the command line; the choice of a group under the group's name.
    script: values of the keys that the engine of a script acts on. notes: one per key that was given, in its order.
    scheduler: parameters of the scheduler that were given, by DeepSpeed's names.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    script: dict[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    scheduler: dict[str, Any] = field(default_factory=dict)

    def nested(self) -> dict[str, Any]:
        """The settings as `Config.from_dict` takes them."""
        values: dict[str, Any] = {}
        for key, value in self.settings.items():
            section, _, option = key.partition(".")
            if key == "zero":
                option, value = "stage", int(value.removeprefix("stage"))
            values.setdefault(section, {})[option or "name"] = value
        return values

    def overrides(self) -> list[str]:
        """The settings as words of a command line, choices of groups first."""
        chosen = [f"{group}={self.settings[group]}" for group in GROUPS if group in self.settings]
        return chosen + [f"{key}={_quoted(value)}" for key, value in self.settings.items() if key not in GROUPS]


def _quoted(value: Any) -> str:
    """A value as Hydra reads it: texts of more than a word in quotes."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_quoted(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_quoted, value)) + "]"
    return spell(value)


def translate(config: Mapping[str, Any], facts: Facts | None = None) -> Translation:
    """Apply the table to a configuration.

    Raises:
        ConfigError: an unknown key, a value of a wrong type, one that would not be kept, or an "auto" that nothing
            resolves.
    """
    config = {ALIASES.get(key, key): value for key, value in config.items()}
    return _Translator(config, facts or Facts()).run()


class _Translator:
    def __init__(self, config: Mapping[str, Any], facts: Facts):
        self._config, self._facts = config, facts
        self._given = dict(_leaves(config, ""))
        batch = {"batch.global": None, "batch.micro": None, "batch.accumulation": None}
        self._result = Translation(batch | {"scheduler": "constant"})  # what DeepSpeed does where nothing is given
        self._refused: list[str] = []

    def run(self) -> Translation:
        self._choose_precision()
        for row in ROWS:
            self._apply(row, row.key, self._given)
        for group in KINDS:
            if self._config.get(group) is not None:
                self._choose(group, self._config[group])
        if self._refused:
            raise ConfigError("\n".join(self._refused))
        place = {key: index for index, key in enumerate(_in_order(self._config, ""))}
        self._result.notes.sort(key=lambda note: place[note.key])
        return self._result

    def _choose_precision(self) -> None:
        on = [row for row in ROWS if row.to == "precision" and self._value(row, row.key, self._given) is True]
        if len(on) > 1:
            raise ConfigError(f"{' and '.join(row.key for row in on)} are both true: choose one.")
        self._result.settings["precision"] = on[0].value(True) if on else "fp32"

    def _value(self, row: Row, key: str, given: Mapping[str, Any]) -> Any:
        """What was given for a row, checked and with "auto" resolved; else DeepSpeed's default."""
        value = given.get(row.key, row.default)
        if value == "auto":
            value = self._resolve(row, key)
        if value in (None, LEAVE):
            return value
        value = parse_value(row.kind, as_meant(row.kind, value), key)
        if row.to and row.to.startswith("batch.") and value < 1:
            raise ConfigError(f"{key}: expected a number of at least 1; got {spell(value)}.")
        return value

    def _apply(self, row: Row, key: str, given: Mapping[str, Any], group: str = "") -> None:
        """Put one row into effect; `group` is that of an optimizer's or scheduler's parameters."""
        value = self._value(row, key, given)
        if row.accepts is not None and row.key in given:
            self._refused += _refusals(row, key, value)
        became = self._set(row, key, value, f"{group}.{row.to}" if group and row.to else row.to)
        if row.script:
            self._result.script[key] = value
        if row.key in given:
            self._note(Note(key, given[row.key], became, row.note))

    def _note(self, note: Note) -> None:
        """Remember a note; a key that became two has one."""
        notes = self._result.notes
        if notes and notes[-1].key == note.key:
            last = notes.pop()
            note = Note(note.key, note.value, f"{last.became} {note.became}", f"{last.text}, {note.text}")
        notes.append(note)

    def _set(self, row: Row, key: str, value: Any, target: str) -> str:
        settings, precision = self._result.settings, self._result.settings["precision"]
        section, _, needed = row.needs.partition("=")
        if not target or (section and settings.get(section) != needed):
            return ""
        if row.kind == FORMAT and value not in (None, "fp32", precision):
            if self._facts.acts:
                return ""
            raise ConfigError(f"{key}={value} needs {value}.enabled=true; the format of weights here is {precision}.")
        if row.kind == FORMAT and precision == "fp32":
            return ""
        converted = value if value is LEAVE else row.value(value)
        if converted is LEAVE:
            return ""
        became = {target: converted, **row.fixed}
        settings |= became
        return " ".join(f"{key}={spell(value)}" for key, value in became.items())

    # -- "auto" ------------------------------------------------------------------------------------------------------

    def _resolve(self, row: Row, key: str) -> Any:
        """The value that "auto" stands for."""
        if row.auto in ("none", "nothing"):
            return None
        if row.auto == "dtype":
            if self._facts.dtype is None:
                raise ConfigError(f"{key} is 'auto', which follows from the model: write true or false.")
            return self._facts.dtype == key.partition(".")[0]
        if row.auto != "optimizer":
            raise ConfigError(f"{key} is 'auto', which Hugging Face's Trainer fills in: write a value.")
        value = (self._facts.optimizer or {}).get("lr" if row.key == "warmup_max_lr" else row.key)
        if value is None:
            raise ConfigError(f"{key} is 'auto', but there is no optimizer with a '{row.key}': write a value.")
        return value

    # -- optimizer and scheduler -------------------------------------------------------------------------------------

    def _choose(self, group: str, section: Mapping[str, Any]) -> None:
        """Translate a type and its parameters."""
        name, params = section.get("type"), section.get("params") or {}
        if not isinstance(params, Mapping):
            raise ConfigError(f"{group}.params: expected keys with values {{...}}, got {spell(params)}.")
        params = dict(params)
        if not isinstance(name, str):
            raise ConfigError(f'{group}.type is missing: write "{group}": {{"type": NAME, "params": {{...}}}}.')
        kind = _kind(group, name, params)
        self._result.settings[group] = kind.name
        self._result.notes.append(Note(f"{group}.type", name, f"{group}={kind.name}", kind.note))
        self._result.settings |= {f"{group}.{key}": value for key, value in kind.fixed.items()}
        known = dict.fromkeys(row.key for row in kind.rows)
        others = {key: value for key, value in params.items() if key not in known}
        if kind.others is None:
            for key in others:
                raise _unknown(f"{group}.params.", key, known)
        else:
            self._result.settings[f"{group}.{kind.others}"] = others
        for row in kind.rows:
            self._apply(row, f"{group}.params.{row.key}", params, group)
        if group == "scheduler":
            own = {row.key: self._value(row, f"{group}.params.{row.key}", params) for row in kind.rows}
            self._result.scheduler = others | {key: own[key] for key in params if key in own}
        if group == "optimizer":
            self._result.settings["optimizer.decay_norms_and_biases"] = True


def _kind(group: str, name: str, params: Mapping[str, Any]) -> Kind:
    kind = optimizer_kind(name, params) if group == "optimizer" else SCHEDULERS.get(name)
    if kind is None:
        near = suggestion(name if group == "scheduler" else name.lower(), KINDS[group])
        raise ConfigError(f"{group}.type={name}: neither DeepSpeed nor PyTorch has this {group}.{near}")
    if kind.refused:
        raise ConfigError(f"{group}.type={name} is not supported: {kind.refused}.")
    return kind


# -- keys ------------------------------------------------------------------------------------------------------------


def _leaves(config: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Every key of the table that is given, with its value. Raises ConfigError for one that is not in it."""
    for key, value in config.items():
        full = f"{path}{key}"
        if full not in KNOWN and full not in SECTIONS:
            raise _unknown(path, str(key), _children(path))
        if full in LEAVES:
            yield full, value
        if full in SECTIONS and value is not None:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{full}: expected keys with values {{...}}, got {spell(value)}.")
            yield from _leaves(value, f"{full}.")


def _children(path: str) -> list[str]:
    """The keys that there are directly in a section."""
    return sorted({key[len(path) :].partition(".")[0] for key in KNOWN if key.startswith(path)})


def _unknown(path: str, key: str, known: Iterable[str]) -> ConfigError:
    return ConfigError(f"Unknown key {path}{key}.{suggestion(key, known, path) or f' {DOCUMENT}'}")


def _in_order(config: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, value in config.items():
        yield f"{path}{key}"
        if isinstance(value, Mapping):
            yield from _in_order(value, f"{path}{key}.")


def _refusals(row: Row, key: str, value: Any) -> list[str]:
    """A line for a value that asks for what is not there."""
    if row.kind is dict:
        return [f"{key} is not supported: {row.note}. Remove the section."] if _enabled(value) else []
    return [] if value in row.accepts else [f"{key}={spell(value)} is not supported: {row.note}. Remove the key."]


def _enabled(section: Any) -> bool:
    """Whether a section asks for something: one of its switches is on, or it has none."""
    if not isinstance(section, Mapping):
        return bool(section)
    switches = [value for name, value in section.items() if name == "enabled"]
    return any(switches) if switches else any(map(_enabled, section.values()))
