"""Command-line words to configurations, in this process."""

from __future__ import annotations

from zerokit.cli.train import parse
from zerokit.config.compose import compose, prepare
from zerokit.config.schema import Config


def configs(*words: str) -> list[Config]:
    """The configuration of each job that the words ask for."""
    args = parse(list(words))
    prepare(args)
    return compose(args)


def config(*words: str) -> Config:
    """The configuration of the one job that the words ask for, on two CPU processes."""
    (only,) = configs("launch=cpu", *words)
    return only
