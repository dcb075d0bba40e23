"""`zerokit [train] [GROUP=NAME ...] [KEY=VALUE ...] [-m]`: check the configuration, then run each job."""

from __future__ import annotations

import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from zerokit.config.arguments import arguments
from zerokit.config.environment import shown
from zerokit.config.errors import ConfigError, usable_folder
from zerokit.config.schema import Config
from zerokit.config.terminal import complain, lasting_output
from zerokit.launch.environment import joined_rank
from zerokit.sweep.task import JobFailed, Task


def main(words: list[str]) -> int:
    """Train as `words` say and return the exit status.

    Raises:
        ConfigError: if no job can be run, or one names what does not exist; nothing has been started or written then.
    """
    # torch says so at import; nothing here needs NumPy.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    rank = joined_rank()
    if rank is None:
        return _run(words)
    if rank > 0:
        from zerokit.launch.joined import follow

        return follow()
    return _lead(words)


def _lead(words: list[str]) -> int:
    """Run the jobs as rank 0 and tell the other ranks how it ended."""
    try:
        status = _run(words)
    except ConfigError as error:
        complain(error)
        status = 2
    except SystemExit as ended:
        if ended.code == 1:  # a failure: other ranks may hang, and the launcher ends them
            raise
        status = ended.code
    from zerokit.launch.joined import stop

    stop(status)
    return status


def _run(words: list[str]) -> int:
    from zerokit.config.compose import check_hydra, compose, jobs, prepare, translated

    args = parse(words)
    prepare(args)
    if args.hydra_help or args.info or args.shell_completion or args.cfg in ("hydra", "all"):
        if not (args.hydra_help or args.shell_completion):
            check_hydra(args)
        with translated():
            return _hydra(args, Task(list(sys.argv), many=False))
    if args.cfg:
        return _show(compose(args)[0], args.package)
    if args.plot_schedule:
        from zerokit.cli.schedule import plot

        return plot(compose(args))
    found = jobs(args)
    if any(isinstance(job, Config) and job.sweep.dry_run for job in found):
        _check_dry_run(args.overrides)
    task = Task(list(sys.argv), many=len(found) > 1)
    with translated():
        try:
            status = _hydra(args, task)
        finally:
            swept = task.sweep.finish() if task.sweep is not None else 0
    sys.stdout.flush()
    lasting_output().error = None  # nobody's reading decides how a training went
    return status or swept


def _check_dry_run(words: list[str]) -> None:
    for word in words:
        key = word.partition("=")[0]
        if key in ("hydra/launcher", "hydra/sweeper"):
            raise ConfigError(
                f"sweep.dry_run=true: leave out {word}. It starts nothing, and cells that a search would choose are "
                "not known before it."
            )


def parse(words: list[str]) -> Namespace:
    """Return the words as Hydra's arguments.

    Raises:
        ConfigError: if there is an unknown flag.
    """
    from zerokit.config.hydra_private import argument_parser

    parser = argument_parser()
    parser.error = _refuse
    parser.add_argument("--plot-schedule", action="store_true")
    args, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        from zerokit.config.errors import suggestion

        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise ConfigError(f"Unknown flag {unknown[0]}.{suggestion(unknown[0], flags)} See zerokit --help.")
    if args.experimental_rerun:
        raise ConfigError("--experimental-rerun: repeat a run with --config-path RUN_FOLDER --config-name config.")
    return args


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message.removeprefix('argument ')}. See zerokit --help.")


def _hydra(args: Namespace, task: Task) -> int:
    import hydra

    from zerokit.config.paths import CONF

    with arguments([sys.argv[0], *_words(args)]), _raw_errors(), usable_folder():
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()
        except JobFailed as error:
            if not task.told:  # the job ran, and printed, elsewhere
                complain(error)
            return 1
        except ValueError as error:
            if "No trials are completed yet" not in str(error):  # Optuna's word for a search in which all cells failed
                raise
            return 1
    return 0


def _words(args: Namespace) -> list[str]:
    """Return the prepared arguments as words for Hydra."""
    flags = {
        "--hydra-help": args.hydra_help,
        "--multirun": args.multirun,
        "--shell-completion": args.shell_completion,
        "--resolve": args.resolve,
    }
    values = {
        "--cfg": args.cfg,
        "--info": args.info,
        "--package": args.package,
        "--config-path": args.config_path,
        "--config-name": args.config_name,
        "--config-dir": args.config_dir,
    }
    words = [flag for flag, given in flags.items() if given]
    words += [word for flag, value in values.items() if value is not None for word in (flag, value)]
    return words + args.overrides


def _show(config: Config, package: str | None) -> int:
    """Print the whole resolved config, or the section `package` of it."""
    from omegaconf import OmegaConf

    values = shown(config.to_dict())
    if package is not None:
        if package not in values:
            raise ConfigError(f"--package: there is no section {package}. Sections: {', '.join(values)}.")
        values = {package: values[package]}
    print(OmegaConf.to_yaml(OmegaConf.create(values)), end="")
    return 0


@contextmanager
def _raw_errors() -> Iterator[None]:
    """Let Hydra raise its errors here, where they are put into words, instead of printing them and exiting."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before
