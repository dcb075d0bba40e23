"""`zerokit schema [GROUP | --write FOLDER]`: the JSON Schema of the configuration or of a group's file, for editors.

--write puts one file for each into FOLDER and prints the line that a YAML file of yours begins with.
"""

from __future__ import annotations

import json
from pathlib import Path

from zerokit.cli.page import usage
from zerokit.config.errors import ConfigError, suggestion, writing
from zerokit.config.terminal import say

USAGE = usage(__doc__)
LINE = "# yaml-language-server: $schema={path}"
"""First line of a YAML file for editors that use yaml-language-server (VS Code, Neovim, Helix)."""


def main(words: list[str]) -> int:
    """Print one schema, or write them all and print the lines that YAML files begin with.

    Raises:
        ConfigError: if there is no such group, or the folder cannot be written.
    """
    match words:
        case []:
            print(_text(""))
        case ["--write", folder]:
            _write(Path(folder))
        case [group] if group and not group.startswith("-"):
            print(_text(group))
        case _:
            raise ConfigError(f"Cannot read '{' '.join(words)}'. Usage: {USAGE}.")
    return 0


def _text(group: str) -> str:
    from zerokit.config.compose import FOLDER_GROUPS
    from zerokit.config.json_schema import config_schema, group_schema

    if group and group not in FOLDER_GROUPS:
        hint = suggestion(group, FOLDER_GROUPS)
        raise ConfigError(f"There is no group '{group}'.{hint} Groups: {', '.join(FOLDER_GROUPS)}.")
    return json.dumps(group_schema(group) if group else config_schema(), indent=2)


def _write(folder: Path) -> None:
    from zerokit.config.compose import FOLDER_GROUPS, OVERLAYS

    groups = [group for group in FOLDER_GROUPS if group not in OVERLAYS]  # overlays have the schema of config.yaml
    with writing(f"schema --write {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        for group in ("", *groups):
            (folder / f"{group or 'config'}.schema.json").write_text(_text(group) + "\n", encoding="utf-8")
    say(f"Wrote {1 + len(groups)} schemas to {folder}. First line of config.yaml, of an overlay and of a group's file:")
    for group in ("config", "optimizer"):
        print(LINE.format(path=(folder / f"{group}.schema.json").as_posix()))
