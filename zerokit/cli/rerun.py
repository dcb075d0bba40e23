"""`zerokit rerun RUN [KEY=VALUE ...]`: the run of a folder once more, with other options where they are given.

RUN is the output folder of a run. The new one has a folder of its own, as every run, and starts from the beginning.
"""

from __future__ import annotations

from zerokit.cli.opened import run_folder
from zerokit.cli.page import usage
from zerokit.config.errors import ConfigError


def main(words: list[str]) -> int:
    """Train as the configuration in the folder of a run says and return the exit status.

    Raises:
        ConfigError: there is no such run, or an option is wrong.
    """
    if not words or "=" in words[0] or words[0].startswith("-"):
        raise ConfigError(f"Give the folder of a run: {usage(__doc__)}.")
    folder, _ = run_folder(words[0])
    from zerokit.cli.train import main as train

    return train(["--config-path", str(folder), "--config-name", "config", *words[1:]])
