"""Worker processes: started here on one host, or joined when torchrun or Slurm started them.

Importing this package does not import torch; launching does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zerokit.config.environment import shown
from zerokit.config.files import replace_text
from zerokit.config.schedule import fixed_length
from zerokit.config.schema import Config
from zerokit.config.terminal import say
from zerokit.launch.environment import joined_rank
from zerokit.record.attempts import left_by_run, set_aside
from zerokit.record.summary import FILES, read_summary
from zerokit.state.folder import FOLDER, saved_states
from zerokit.state.lock import locked
from zerokit.state.resume import SCHEDULE, check_config, newest_step, started_again

WORKER = "zerokit.estimate.worker:run"
"""Default entry: `run(config: dict, run_dir: str) -> dict`, called in every worker process."""


def launch(
    config: Config, run_dir: Path, entry: str | None = None, notes: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Write config.yaml into the output folder, run the entry in every worker, and return the summary of rank 0.

    What an earlier run has left there moves to `attempts/N`, unless this one goes on from its states.

    Args:
        config: the checked configuration.
        run_dir: output folder of the job; made if needed.
        entry: `module:function`, called in each worker as `function(config.to_dict(), str(run_dir))`; default `WORKER`.
        notes: names and texts of files to write beside config.yaml, once the folder is this job's.

    Raises:
        TrainingFailed: with rank and traceback of the root cause, if a worker failed.
        ConfigError: if the batch cannot be divided among the processes, there are fewer GPUs than processes, another
            job uses the folder, or it holds a state of another training or of a step after the last.
        KeyboardInterrupt: after Ctrl-C; the workers have ended.
    """
    from omegaconf import OmegaConf

    entry = entry or WORKER
    if joined_rank() is not None:
        from zerokit.launch import joined

        run_dir = joined.folder(run_dir)
    with locked(run_dir):
        written = shown(config.to_dict())
        check_config(written, run_dir, **{SCHEDULE: fixed_length(config)})
        if (done := finished(config, run_dir)) is not None:
            say(f"nothing left to do: step {done['steps']} of {config.train.steps}, in {run_dir}")
            return done
        _set_aside(run_dir)
        files = {"config.yaml": OmegaConf.to_yaml(OmegaConf.create(written)), **(notes or {})}
        for name, text in files.items():
            replace_text(run_dir / name, text)
        if joined_rank() is not None:
            return joined.lead(config, run_dir, entry)
        from zerokit.launch import local

        return local.run(config, run_dir, entry)


def _set_aside(run_dir: Path) -> None:
    """Keep what an earlier run has left in the folder if this one does not go on from it."""
    if not (run_dir / FILES["summary"]).exists() or started_again() or saved_states(run_dir / FOLDER):
        return
    place = set_aside(run_dir, left_by_run(run_dir))
    say(f"{run_dir} holds an earlier run, without a state to go on from: its files are in {place.relative_to(run_dir)}")


def finished(config: Config, run_dir: Path) -> dict[str, Any] | None:
    """The summary in a folder whose run has finished and has saved all its steps; None if there are steps left."""
    summary = read_summary(run_dir)
    saved = newest_step(run_dir / FOLDER)
    done = summary.get("status") == "finished" and summary.get("steps") == saved
    return summary if done and saved == config.train.steps else None
