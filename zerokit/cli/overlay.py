"""The page of an overlay (`experiment=`, `debug=`): its question, what it sets, and the commands that run it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerokit.cli.page import command
from zerokit.config.parse import spell
from zerokit.config.paths import CONF
from zerokit.config.schema import LaunchConfig
from zerokit.config.terminal import wrapped


@dataclass(frozen=True)
class Comment:
    """The comment at the top of a YAML file of a group."""

    meaning: str
    """Its text up to the first command."""
    commands: list[str]
    """Its indented lines."""
    more: str
    """Text after them."""


def comment(file: Path) -> Comment:
    """Read the comment at the top of a file, without what is for Hydra."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @"):
            lines.append(line.removeprefix("#").removeprefix(" "))
    places = [number for number, line in enumerate(lines) if line.startswith(" ")] or [len(lines)]
    commands = [line.strip() for line in lines if line.startswith(" ")]
    return Comment(" ".join(lines[: places[0]]), commands, " ".join(lines[places[-1] + 1 :]))


def page(group: str, name: str) -> list[str]:
    """Lines of the page."""
    from omegaconf import OmegaConf

    file = CONF / group / f"{name}.yaml"
    text, values = comment(file), OmegaConf.to_container(OmegaConf.load(file))
    swept = (values.pop("hydra", {}).get("sweeper") or {}).get("params") or {}
    chosen = [entry for entry in values.pop("defaults", []) if isinstance(entry, dict)]
    words = [f"{key.removeprefix('override /')}={value}" for entry in chosen for key, value in entry.items()]
    lines = [f"{group}={name}", *wrapped(text.meaning), "", "It sets"]
    lines += [f"  {word}" for word in [*words, *_leaves(values)]]
    if swept:
        lines += ["", "It runs every combination of"]
        lines += [line for key, value in swept.items() for line in [f"  {key}", *wrapped(_listed(key, value), 6)]]
    lines += ["", "Run it with", *(line for given in text.commands for line in command(given.split()))]
    return lines + (["", *wrapped(text.more)] if text.more else [])


def _leaves(values: dict[str, Any], path: str = "") -> list[str]:
    words = []
    for key, value in values.items():
        words += (
            _leaves(value, f"{path}{key}.") if isinstance(value, dict) else [f"{path}{key}={spell(_resolved(value))}"]
        )
    return words


def _listed(key: str, value: str) -> str:
    """The values of a sweep, with room for a line break between them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return ", ".join(OverridesParser.create().parse_override(f"{key}={_resolved(value)}").sweep_string_iterator())


def _resolved(value: Any) -> Any:
    """A value of the file as it is on this host."""
    from omegaconf import OmegaConf

    from zerokit.config.identity import register_resolvers

    register_resolvers("")
    return OmegaConf.create({"value": value, "launch": {"device": LaunchConfig.device}}).value
