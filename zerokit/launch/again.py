"""The command that goes on with a run that has ended before its last step. Imports no torch."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from zerokit.config.parse import quoted
from zerokit.config.schema import Config
from zerokit.record.summary import command
from zerokit.state.folder import FOLDER
from zerokit.state.resume import newest_step

REPLACED = re.compile(r"(\+\+|\+)?(hydra\.run\.dir|state\.resume)=")


def tell_how_to_go_on(config: Config, run_dir: Path, argv: list[str]) -> None:
    """Write to standard error the command that goes on from the newest state, if there are a state and steps left.

    argv: the command line of the run, which started its processes itself.
    """
    step = newest_step(run_dir / FOLDER)
    if step is None or step >= config.train.steps:
        return
    here = Path.cwd()
    folder = run_dir.relative_to(here) if run_dir.is_relative_to(here) and run_dir != here else run_dir
    words = [word for word in argv if not REPLACED.match(word)] + [f"hydra.run.dir={quoted(str(folder))}"]
    if config.state.resume != "auto":  # `never` refuses the folder's own states, a path in it those after it
        words.append("state.resume=auto")
    # One line whatever its length: broken by anybody but the terminal, it could not be pasted.
    print(f"zerokit: to go on after step {step}:\n{command(words)}", file=sys.stderr, flush=True)
