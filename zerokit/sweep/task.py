"""What Hydra calls for each job, with every launcher: launch the training and return what a sweeper optimises."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

import zerokit.launch
from zerokit.config import registry
from zerokit.config.arguments import arguments
from zerokit.config.errors import ConfigError, usable_folder
from zerokit.config.schema import Config
from zerokit.config.terminal import complain
from zerokit.estimate.start import start
from zerokit.launch.again import tell_how_to_go_on
from zerokit.launch.environment import joined_rank
from zerokit.launch.errors import TrainingFailed
from zerokit.launch.requeued import first_folder
from zerokit.record.summary import read_summary
from zerokit.sweep.cell import Cell, outcome

if TYPE_CHECKING:
    from zerokit.estimate.choose import Choice


class JobFailed(Exception):
    """A job of a sweep failed, and its error has been printed."""


class Task:
    """The function of the job. It can be pickled, for launchers that run it on another machine.

    Args:
        argv: the command line that asked for the job.
        many: whether it is one of several, so that its failure must not end this process.
        entry: what each worker runs, as `launch` takes it.
    """

    def __init__(self, argv: list[str], many: bool, entry: str | None = None) -> None:
        self.argv, self.many, self.entry = argv, many, entry or zerokit.launch.WORKER
        self.sweep: Any = None
        """The `Sweep` of zerokit's own launcher, which knows tasks, once that has started."""
        self.told = False
        """Whether this process has printed why a job failed."""
        self.prepared = False
        """Whether the folder of the job has been looked at already."""
        self.choice: Choice | None = None
        """What `zero=auto` has chosen for the job already."""
        self.led = joined_rank() is not None
        """Whether one process runs Hydra for others, which follow it (under torchrun)."""

    def __call__(self, composed: DictConfig) -> float | None:
        """Train one job in the output folder that Hydra chose.

        Raises:
            JobFailed: if it is one of several and failed.
            SystemExit: if it is alone and failed.
        """
        from hydra.core.hydra_config import HydraConfig

        from zerokit.config.compose import to_config

        hydra = HydraConfig.get()
        with arguments(self.argv):
            try:
                config = to_config(composed)
                if config.sweep.dry_run:
                    raise ConfigError(
                        "sweep.dry_run=true lists the cells of a sweep: add -m. zerokit estimate predicts one run."
                    )
                if self.many:
                    config = grouped(config, Path(hydra.sweep.dir).name)
                folder = Path(hydra.runtime.output_dir).resolve()
                if not self.many:  # the folders of a sweep are named by its command
                    folder = first_folder(folder, config)
                with usable_folder():
                    summary = self._run(config, folder, list(hydra.overrides.task))
            except (TrainingFailed, ConfigError) as error:
                complain(error)
                self.told = True
                if self.many:
                    raise JobFailed(str(error).splitlines()[0]) from error
                if isinstance(error, ConfigError):
                    sys.exit(2)
                self._tell_how_to_go_on(config, folder)
                sys.exit(1)
        return outcome(summary, config.sweep.metric)

    def _run(self, config: Config, folder: Path, words: list[str]) -> dict[str, Any]:
        try:
            return self._launch(config, folder, words)
        except (KeyboardInterrupt, SystemExit):
            self._tell_how_to_go_on(config, folder)
            raise

    def _launch(self, config: Config, folder: Path, words: list[str]) -> dict[str, Any]:
        inside = joined_rank() is not None and not self.led
        if inside and joined_rank() > 0:
            return _follow()
        cell = Cell(words, folder, config)
        if self.many and not self.prepared and not cell.prepare():
            if inside:
                _stop(0)
            return read_summary(folder)
        return _lead(config, folder, self.entry) if inside else start(config, folder, self.entry, self.choice)

    def _tell_how_to_go_on(self, config: Config, folder: Path) -> None:
        if not self.many and joined_rank() is None:  # else the command is not known here
            tell_how_to_go_on(config, folder, self.argv)

    def of_cell(self, words: list[str], choice: Choice | None) -> Task:
        """Return the task of one job whose folder is prepared; its command line is that of the job alone."""
        plain = [word.lstrip("+") for word in words if not word.lstrip("+").startswith("sweep.")]
        mode = [] if {"-m", "--multirun"} & set(self.argv) else ["hydra.mode=RUN"]  # an overlay made it a sweep
        task = Task([self.argv[0], *plain, *mode], True, self.entry)
        task.prepared, task.choice = True, choice
        return task

    def __reduce__(self) -> tuple[Callable[..., Task], tuple[Any, ...]]:
        from omegaconf import OmegaConf

        name = str(OmegaConf.create({"name": "${zerokit.sweep:}"}).name)
        return _restored, (self.argv, self.many, self.entry, name, registry.of_script())


def _lead(config: Config, folder: Path, entry: str) -> dict[str, Any]:
    """Launch as rank 0 of processes that each got this job, such as the tasks of a Slurm job of submitit."""
    try:
        return start(config, folder, entry)
    except (ConfigError, TrainingFailed):
        raise
    except Exception as error:
        raise TrainingFailed(f"{type(error).__name__}: {error}") from error
    finally:
        _stop(0)


def _stop(status: int) -> None:
    from zerokit.launch import joined

    joined.stop(status)


def _follow() -> dict[str, Any]:
    from zerokit.launch import joined

    joined.follow()
    return {}


def grouped(config: Config, group: str) -> Config:
    """Return the config with the sweep's name as its group, where it has none."""
    if config.run.group is not None:
        return config
    return dataclasses.replace(config, run=dataclasses.replace(config.run, group=group))


def _restored(argv: list[str], many: bool, entry: str, sweep: str, components: dict[str, dict[str, Any]]) -> Task:
    """Make a task in another process, with the components that the user's script had registered."""
    from zerokit.config.compose import to_config
    from zerokit.config.identity import register_resolvers

    register_resolvers(sweep, to_config)
    registry.restore(components)
    task = Task(argv, many, entry)
    task.led = False
    return task
