"""`zerokit estimate [GROUP=NAME ...] [KEY=VALUE ...]`: memory and communication of a run, without running it.

The configuration is written as for a run. estimate.hardware=NAME adds times, estimate.world=[2,8] other numbers of
processes, estimate.json=FILE a file with all figures.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from zerokit.cli.train import parse
from zerokit.config.compose import compose, prepare
from zerokit.config.errors import ConfigError, writing
from zerokit.config.schema import Config
from zerokit.config.terminal import wrapped
from zerokit.estimate.collection import no_collection
from zerokit.record.hardware import Hardware, find_entry


def main(words: list[str]) -> int:
    """Print what the configuration that `words` compose is predicted to need.

    Raises:
        ConfigError: it is wrong, names unknown hardware, or its model cannot be run without values.
    """
    args = parse(words)
    if args.multirun:
        raise ConfigError(
            "zerokit estimate takes one configuration; zerokit -m ... sweep.dry_run=true estimates a sweep."
        )
    for flag, given in (("--cfg", args.cfg), ("--info", args.info), ("--plot-schedule", args.plot_schedule)):
        if given:
            raise ConfigError(f"zerokit estimate does not take {flag}: leave out the word estimate.")
    prepare(args)
    (cfg,) = compose(args)
    if cfg.estimate.json is not None:
        _check_writable(Path(cfg.estimate.json))
    name = cfg.estimate.hardware
    known = None if name in (None, "measure") else find_entry(name)  # before torch is there
    with no_collection():  # a short process, which is done before garbage matters
        _estimate(cfg, known)
    return 0


def _estimate(cfg: Config, known: Hardware | None) -> None:
    # torch says so at import; nothing here needs NumPy.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    from zerokit.estimate.compare import Comparison
    from zerokit.estimate.tables import show

    if cfg.zero.auto:
        cfg = _chosen(cfg, known)
    comparison = Comparison(cfg, known)
    show(comparison)
    if cfg.estimate.json is not None:
        with writing(f"estimate.json={cfg.estimate.json}: cannot be written"):
            Path(cfg.estimate.json).write_text(json.dumps(comparison.to_dict(), indent=1) + "\n", encoding="utf-8")


def _check_writable(path: Path) -> None:
    if path.is_dir() or not path.absolute().parent.is_dir():
        problem = "that is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise ConfigError(f"estimate.json={path}: cannot be written: {problem}.")


def _chosen(cfg: Config, hardware: Hardware | None) -> Config:
    """What `zero=auto` would run, with the reason printed."""
    from zerokit.estimate.choose import choose
    from zerokit.estimate.machine import default_world, hardware_of

    choice = choose(cfg, default_world(cfg), hardware or hardware_of(cfg))
    print("\n".join(line for text in choice.why(choice.fitting[0]) for line in wrapped(text)), end="\n\n")
    return choice.fitting[0].cfg
