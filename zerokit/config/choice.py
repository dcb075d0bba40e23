"""The value of a group on the command line, `GROUP=NAME`: one name, and with -m several, before Hydra reads it."""

from __future__ import annotations

import re

from zerokit.config.errors import ConfigError, suggestion

NO_NAME = re.compile(r"null|true|false|[-+.\d]+(e[-+]?\d+)?", re.IGNORECASE)
"""What YAML reads as another value than a text."""
CALL = re.compile(r"(choice|shuffle|sort)\((.*)\)", re.DOTALL)


def normalised(group: str, value: str, choices: list[str], optional: bool = False) -> str:
    """Return the value with every name as Hydra takes it: a stage's number is its name.

    Args:
        group: its name.
        value: what was given; names are separated by commas in a sweep.
        choices: names that there are.
        optional: whether `null` chooses none.

    Raises:
        ConfigError: a value that is no name, or a list where one name is expected.
    """
    if call := CALL.fullmatch(value):
        return f"{call[1]}({normalised(group, call[2], choices, optional)})"
    if value.startswith("["):
        names = [name.strip() for name in value.strip("[]").split(",")]
        if len(names) > 1:
            joined = ",".join(names)
            raise ConfigError(
                f"{group}={value}: one name is expected, got a list. To run each of them: -m {group}={joined}."
            )
        value = names[0]
    if "(" in value:  # another function of Hydra's
        return value
    return ",".join(_name(group, name, choices, optional) for name in value.split(","))


def _name(group: str, name: str, choices: list[str], optional: bool) -> str:
    bare = name.strip().strip("'\"")
    if f"stage{bare}" in choices:
        return f"stage{bare}"
    if NO_NAME.fullmatch(bare) and bare not in choices and not (optional and bare.lower() == "null"):
        hint = suggestion(bare, choices, f"{group}=")
        raise ConfigError(
            f"{group}={bare}: there is no such {group}.{hint} Choices: {', '.join(choices)}; options of one are set "
            f"with {group}.KEY=VALUE."
        )
    return name
