"""`zerokit convert ds_config.json [--overrides | --yaml]`: a DeepSpeed configuration in zerokit's words.

Every key gets a note. --overrides and --yaml print nothing else than these, for $(...) and for a file. In place of a
file the configuration may be given as JSON in base64.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from zerokit.cli.page import command, usage
from zerokit.compat.deepspeed.source import load
from zerokit.compat.deepspeed.translation import GROUPS, Note, Translation, translate
from zerokit.config.errors import ConfigError
from zerokit.config.parse import spell
from zerokit.config.terminal import wrapped

USAGE = f"Give one file, or a configuration in base64: {usage(__doc__)}."


def main(words: list[str]) -> int:
    """Print what the DeepSpeed configuration named by `words` is for zerokit.

    Raises:
        ConfigError: it cannot be read, or holds a key or value that zerokit does not support.
    """
    flags = [word for word in words if word.startswith("--")]
    sources = [word for word in words if word not in flags]
    if len(sources) != 1 or len(flags) > 1 or not set(flags) <= {"--overrides", "--yaml"}:
        raise ConfigError(USAGE)
    translation = translate(load(sources[0]))
    parts = {"--overrides": _words, "--yaml": _yaml}
    print(parts[flags[0]](translation) if flags else _everything(translation, sources[0]))
    return 0


def _everything(translation: Translation, source: str) -> str:
    name = Path(source).stem if Path(source).exists() else "ds_config"
    lines = [line for note in translation.notes for line in _lines(note)]
    return "\n".join(
        [
            *lines,
            "",
            "On the command line:",
            "",
            *command(["python -m zerokit", *map(shlex.quote, translation.overrides())]),
            "",
            f"As experiment={name}: experiment/{name}.yaml in a --config-dir:",
            "",
            _yaml(translation),
        ]
    )


def _lines(note: Note) -> list[str]:
    value = "{...}" if isinstance(note.value, dict) else spell(note.value)
    text = f"{note.became or 'nothing to set'}: {note.text}"
    return [f"{note.key}={value}", *wrapped(text, 4)]


def _words(translation: Translation) -> str:
    return shlex.join(translation.overrides())


def _as_text(value: Any) -> Any:
    """The value with `${` as a text, which Hydra would resolve."""
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _yaml(translation: Translation) -> str:
    import yaml

    values: dict[str, dict[str, Any]] = {}
    for key, value in translation.settings.items():
        section, _, option = key.partition(".")
        if option:
            values.setdefault(section, {})[option] = _as_text(value)
    chosen = [{f"override /{key}": translation.settings[key]} for key in GROUPS if key in translation.settings]
    body = yaml.safe_dump({"defaults": chosen, **values}, sort_keys=False).rstrip()
    return f"# @package _global_\n{body}"
