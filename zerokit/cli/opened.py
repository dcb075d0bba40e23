"""A run's folder and configuration, as the commands that use a finished run find them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from zerokit.config.errors import ConfigError


def run_folder(given: str) -> tuple[Path, Path | None]:
    """The folder of a run that `given` names, and the state if it is one of its states.

    Raises:
        ConfigError: it is neither.
    """
    path = Path(given).expanduser()
    for folder, state in ((path, None), (path.resolve().parent.parent, path)):
        if (folder / "config.yaml").is_file():
            return folder, state
    raise ConfigError(
        f"{given} is no run: expected a folder with config.yaml, as a run leaves it, or one of its states."
    )


def configured(folder: Path, words: list[str]) -> Any:
    """The configuration of a run with overrides.

    Raises:
        ConfigError: they cannot be run.
    """
    from zerokit.cli.train import parse
    from zerokit.config.compose import compose, prepare

    args = parse(["--config-path", str(folder), "--config-name", "config", *words])
    prepare(args)
    return compose(args)[0]


def opened(folder: Path, state: Path | None, words: list[str]) -> tuple[Any, str]:
    """The trainer of a run with its weights, and which these are."""
    cfg = configured(folder, words)
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # torch says so; nothing here needs it
    from zerokit.train.finished import open_finished

    return open_finished(cfg, folder, state)
