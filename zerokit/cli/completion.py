"""`zerokit completion bash|zsh|fish`: completion of commands, groups, choices, options and their values in the shell.

It prints a script; in ~/.bashrc: eval "$(zerokit completion bash)", in ~/.zshrc, after compinit, the same with zsh, in
~/.config/fish/config.fish: zerokit completion fish | source
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from zerokit.cli.page import usage
from zerokit.config.errors import ConfigError

SCRIPTS = {
    "bash": r"""_zerokit_complete() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\n'
    COMPREPLY=($("${COMP_WORDS[0]}" completion --query "$line" 2>/dev/null))
    # Readline replaces only what follows the last break within the word, such as '='.
    local word="${line##*[[:space:]]}"
    local rest="${word##*[=:]}"
    local kept="${word%"$rest"}"
    [[ "$COMP_WORDBREAKS" == *=* ]] && COMPREPLY=("${COMPREPLY[@]#"$kept"}")
}
complete -o nospace -o default -F _zerokit_complete zerokit""",
    "zsh": r"""_zerokit() {
    local -a found
    found=("${(@f)$("${words[1]}" completion --query "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    found=(${found:#})  # of nothing there is one empty line
    if (( $#found )); then compadd -Q -S '' -- "${found[@]}"; else compset -P '*='; _files; fi
}
compdef _zerokit zerokit""",
    "fish": r"""function __zerokit_complete
    set -l words (commandline -opc)
    set -l found ($words[1] completion --query (commandline -cp | string collect) 2>/dev/null)
    if test (count $found) -gt 0
        string trim -- $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c zerokit -f -a '(__zerokit_complete)'""",
}
"""By shell. Candidates that are whole end with a space, which fish adds itself."""

VALUES_OF_FLAGS = {
    "--cfg": ("job", "hydra", "all"),
    "-c": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
FILES_OF_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p")


def main(words: list[str]) -> int:
    """Print the script for a shell, or what completes the line typed so far, one candidate per line.

    Raises:
        ConfigError: for another shell.
    """
    match words:
        case [shell] if shell in SCRIPTS:
            print(SCRIPTS[shell])
        case ["--query", line]:
            for candidate in candidates(line):
                print(candidate)
        case _:
            raise ConfigError(f"Give the shell, one of {', '.join(SCRIPTS)}: {usage(__doc__)}.")
    return 0


def candidates(line: str) -> list[str]:
    """Return what the last word of `line` may become; those that are whole end with a space. None means files."""
    words = line.split()
    word = words.pop() if words and not line[-1].isspace() else ""
    before = words[1:]
    found: Iterable[str] = []
    if not before:
        found = [*(f"{name} " for name in _commands() if "=" not in word), *_overrides(before, word)]
    elif before[0] in ARGUMENTS:
        found = ARGUMENTS[before[0]](before[1:], word)
    elif before[0] not in _commands():
        found = _overrides(before, word)
    return sorted({candidate for candidate in found if candidate.startswith(word)})


def _commands() -> list[str]:
    from zerokit.cli import COMMANDS

    return list(COMMANDS)


def _names(before: list[str], word: str) -> list[str]:
    from zerokit.cli.help import GROUPS, names

    if "=" in word:
        group = word.partition("=")[0]
        return [f"{group}={name} " for name in _choices(group)]
    return [f"{name} " for name in names()] + [f"{group}=" for group in GROUPS]


def _schemas(before: list[str], word: str) -> list[str]:
    from zerokit.config.compose import FOLDER_GROUPS

    return [] if before else ["--write ", *(f"{group} " for group in FOLDER_GROUPS)]


def _fixed(*words: str) -> Callable[[list[str], str], list[str]]:
    return lambda before, word: [f"{word} " for word in words]


# -- overrides ---------------------------------------------------------------------------------------------------------


def _overrides(before: list[str], word: str) -> list[str]:
    """Candidates for GROUP=NAME, KEY=VALUE and the flags of Hydra."""
    last = before[-1] if before else ""
    if last in VALUES_OF_FLAGS:
        return [f"{value} " for value in VALUES_OF_FLAGS[last]]
    if last in FILES_OF_FLAGS:
        return []
    if word.startswith("-"):
        return [f"{flag} " for flag in _flags()]
    key = word.lstrip("+~").partition("=")[0]
    start = word[: len(word) - len(word.lstrip("+~"))]
    if "=" in word:
        # After a comma the next value of a sweep begins.
        given = word.rpartition(",")[0] + "," if "," in word else f"{start}{key}="
        return [f"{given}{value} " for value in _values(before, key)]
    return [f"{start}{option}" for option in _keys(before, key)]


def _flags() -> list[str]:
    from zerokit.config.hydra_private import argument_parser

    return [flag for action in argument_parser()._actions for flag in action.option_strings if flag.startswith("--")]


def _keys(before: list[str], key: str) -> list[str]:
    from zerokit.cli.help import GROUPS
    from zerokit.config import registry
    from zerokit.config.schema import SECTIONS

    if "." not in key:
        return [
            *(f"{group}=" for group in GROUPS),
            *(f"{name}." for name in dict.fromkeys((*registry.GROUPS, *registry.LISTS, *SECTIONS))),
        ]
    path = key.rpartition(".")[0]
    kind = _kind(before, path)
    if not dataclasses.is_dataclass(kind):
        return []
    return [
        f"{path}.{name}{'.' if dataclasses.is_dataclass(_inner(hint)) else '='}"
        for name, hint in _options(kind).items()
    ]


def _values(before: list[str], key: str) -> list[str]:
    from zerokit.cli.help import GROUPS

    return _choices(key) if key in GROUPS else _spelled(_kind(before, key))


def _choices(group: str) -> list[str]:
    from zerokit.cli.help import GROUPS, all_choices

    return all_choices(group) if group in GROUPS else []


def _kind(before: list[str], path: str) -> Any:
    """The type of the option at `path`, or None if there is none."""
    section, *rest = path.split(".")
    kind = _section(before, section)
    for key in rest:
        kind = _options(_inner(kind)).get(key) if dataclasses.is_dataclass(_inner(kind)) else None
    return _inner(kind)


def _section(before: list[str], section: str) -> Any:
    """The dataclass of a section's options: of a group, those of the choice on the line, else of the default."""
    from zerokit.cli.help import default_choices, options_of
    from zerokit.config import registry
    from zerokit.config.schema import SECTIONS

    if section in SECTIONS:
        return SECTIONS[section]
    if section in registry.LISTS:
        known = [(name, registry.options_type(section, name)) for name in registry.names(section)]
        return dataclasses.make_dataclass(section, known)
    if section not in registry.GROUPS:
        return None
    chosen = [word.partition("=")[2] for word in before if word.lstrip("+").startswith(f"{section}=")]
    name = chosen[-1] if chosen and chosen[-1] in _choices(section) else default_choices()[section]
    return options_of(section, name)[0]


def _options(kind: type) -> dict[str, Any]:
    """The options of a dataclass by key, with their types."""
    hints = get_type_hints(kind)
    return {field.name.removesuffix("_"): hints[field.name] for field in dataclasses.fields(kind)}


def _inner(kind: Any) -> Any:
    """The dataclass in `Dataclass | None`; any other type as it is."""
    members = [member for member in get_args(kind) if dataclasses.is_dataclass(member)]
    return members[0] if get_origin(kind) in (Union, types.UnionType) and len(members) == 1 else kind


def _spelled(kind: Any) -> list[str]:
    """The values of a type that has few."""
    if kind is bool:
        return ["false", "true"]
    if kind is types.NoneType:
        return ["null"]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    if get_origin(kind) in (Union, types.UnionType):
        return [value for member in get_args(kind) for value in _spelled(member)]
    return []


ARGUMENTS: dict[str, Callable[[list[str], str], Iterable[str]]] = {
    "train": _overrides,
    "estimate": _overrides,
    "help": _names,
    "schema": _schemas,
    "completion": _fixed(*SCRIPTS),
    "dashboard": _fixed("--dry-run", "--name"),
}
"""What follows a command, from the words before and the word at the cursor; the other commands take files."""
