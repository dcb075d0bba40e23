"""`zerokit generate RUN (--prompt TEXT | --file FILE) [KEY=VALUE ...]`: what a run's model writes after a text.

RUN is the output folder of a run, whose last weights are taken, or one of its states. FILE has a prompt in each line, -
stands for the standard input. Of conversations a prompt is what the user says.

--tokens 200: at most so many. --temperature 0.7: 0 takes the likeliest token each time. --top-p 1: draws from the
likeliest that have this probability together. --seed 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

from zerokit.cli.opened import opened, run_folder
from zerokit.cli.page import usage
from zerokit.config.errors import ConfigError, suggestion

FLAGS = ("--prompt", "--file", "--tokens", "--temperature", "--top-p", "--seed")
USAGE = f"Usage: {usage(__doc__)}."


def main(words: list[str]) -> int:
    """Write on from each prompt, shown as it comes, and return the exit status.

    Raises:
        ConfigError: there is no such run, a flag is wrong, or the run is not for text.
    """
    flags, rest = _flags(words)
    if not rest or "=" in rest[0] or ("--prompt" in flags) == ("--file" in flags):
        raise ConfigError(f"Give the folder of a run, and a prompt or a file of prompts. {USAGE}")
    prompts = [flags["--prompt"]] if "--prompt" in flags else _lines(flags["--file"])
    count, seed = (_number(flags, name, kind, 0) for name, kind in (("--tokens", 200), ("--seed", 0)))
    temperature, top_p = _number(flags, "--temperature", 0.7, 0), _number(flags, "--top-p", 1.0, 0)
    trainer, _ = opened(*run_folder(rest[0]), rest[1:])
    from zerokit.train.finished import write_on

    for prompt in prompts:
        write_on(trainer, prompt, count, temperature, top_p, seed, lambda text: print(text, end="", flush=True))
        print()
    return 0


def _flags(words: list[str]) -> tuple[dict[str, str], list[str]]:
    found, rest, left = {}, [], list(words)
    while left:
        word = left.pop(0)
        flag, given, value = word.partition("=")
        if not flag.startswith("-"):
            rest.append(word)
        elif flag not in FLAGS:
            raise ConfigError(f"Unknown flag {flag}.{suggestion(flag, FLAGS)} {USAGE}")
        elif not given and not left:
            raise ConfigError(f"{flag}: expected a value. {USAGE}")
        else:
            found[flag] = value if given else left.pop(0)
    return found, rest


def _number(flags: dict[str, str], name: str, default: float, least: float) -> float:
    """The number of a flag, of the type of its default."""
    try:
        value = type(default)(flags.get(name, default))
    except ValueError:
        value = None
    if value is None or not value >= least:
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise ConfigError(f"{name}: expected {kind} of at least {least}, got '{flags[name]}'.")
    return value


def _lines(file: str) -> list[str]:
    try:
        lines = sys.stdin.read() if file == "-" else Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--file: {file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    return [line for line in lines.splitlines() if line.strip()]
