"""What a person types: `zerokit [COMMAND] ...`. Imports no torch until the configuration is known to be right."""

from __future__ import annotations

import gc
import importlib
import sys
from importlib.metadata import version

from zerokit.config.errors import ConfigError, suggestion
from zerokit.config.terminal import Lasting, complain, lasting_output, open_standard_streams

COMMANDS = {
    "train": "zerokit.cli.train:main",
    "estimate": "zerokit.cli.estimate:main",
    "report": "zerokit.cli.report:main",
    "state": "zerokit.cli.state:main",
    "export": "zerokit.cli.export:main",
    "generate": "zerokit.cli.generate:main",
    "evaluate": "zerokit.cli.evaluate:main",
    "rerun": "zerokit.cli.rerun:main",
    "convert": "zerokit.cli.convert:main",
    "doctor": "zerokit.cli.doctor:main",
    "dashboard": "zerokit.cli.dashboard:main",
    "schema": "zerokit.cli.schema:main",
    "completion": "zerokit.cli.completion:main",
    "help": "zerokit.cli.help:main",
}
"""Where each command is; every one takes its arguments as a list of words and returns the exit status."""


ASKING = {"-h", "--help"}
"""Flags that ask for the page of a command."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its status: 0 done, 1 failed, 2 wrong configuration, 130 interrupted."""
    open_standard_streams()
    output = lasting_output()
    status = run(sys.argv[1:] if arguments is None else arguments)
    status = status or _lost(output)
    gc.freeze()  # to look through all of torch for cycles on the way out takes a second
    sys.exit(status)


def run(words: list[str]) -> int:
    """Run the command that `words` name, `train` if they name none, and return the exit status."""
    try:
        if words == ["--version"]:
            print(f"zerokit {version('zerokit')}")
            return 0
        command, rest = _split(words)
        module, _, function = COMMANDS[command].partition(":")
        return getattr(importlib.import_module(module), function)(rest)
    except ConfigError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        complain("interrupted.")
        return 130


def _lost(output: Lasting) -> int:
    """Say that the output of a command could not be written, and return the status for it; a reader that has seen
    enough, such as `head`, knows. 0 if nothing was lost."""
    output.flush()
    if output.error is None:
        return 0
    if not isinstance(output.error, BrokenPipeError):
        complain(f"the output cannot be written: {getattr(output.error, 'strerror', None) or output.error}.")
    return 1


def _split(words: list[str]) -> tuple[str, list[str]]:
    asks = bool(ASKING & set(words))
    if not words or not words[0][:1].isalpha() or "=" in words[0]:
        return ("help", []) if asks else ("train", words)
    if words[0] not in COMMANDS:
        raise ConfigError(
            f"There is no command '{words[0]}'.{suggestion(words[0], COMMANDS)} "
            f"Commands: {', '.join(COMMANDS)}; options are written KEY=VALUE. See zerokit --help."
        )
    return ("help", words[:1]) if asks else (words[0], words[1:])
