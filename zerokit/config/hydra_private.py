"""Everything that zerokit takes from Hydra's private modules: what to look at when a new Hydra comes out."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.types import Override

TARGETS = tuple(f"hydra._internal.core_plugins.basic_{name.lower()}.Basic{name}" for name in ("Launcher", "Sweeper"))
"""The `_target_`s of Hydra's own launcher and sweeper."""


def argument_parser() -> ArgumentParser:
    """The parser of Hydra's command line."""
    return get_args_parser()


def config_loader(folder: str | Path, before: str | None = None) -> ConfigLoader:
    """What composes configurations as `hydra.main` does: from `folder`, and from the folder `before` ahead of it."""
    search_path = create_config_search_path(str(folder))
    if before is not None:
        search_path.prepend("command-line", f"file://{before}", SearchPathQuery(provider="schema"))
    return ConfigLoaderImpl(search_path)


def jobs(overrides: Iterable[Override]) -> list[list[str]]:
    """The words of every job of a sweep over the given overrides, in the order of Hydra's own sweeper."""
    return [list(job) for batch in BasicSweeper.split_arguments(list(overrides), None) for job in batch]
