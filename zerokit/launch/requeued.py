"""The output folder of a job that Slurm starts again: that of its first start, though the default names the time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from zerokit.config.identity import digest
from zerokit.config.schema import Config
from zerokit.config.terminal import complain

NOTES = Path("outputs", ".slurm")
"""Where jobs note their folders, below the folder in which they are started."""


def first_folder(run_dir: Path, config: Config) -> Path:
    """The folder in which a run goes on: `run_dir`, or what it was when Slurm first started this job.

    config: of the run, since a job may have several.
    """
    note = _note(config)
    if note is None:
        return run_dir
    if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" and note.is_file():
        first = Path(note.read_text(encoding="utf-8"))
        if first != run_dir:
            with suppress(OSError):  # Hydra has just made it
                run_dir.rmdir()
        return first
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(str(run_dir), encoding="utf-8")
    except OSError as error:
        complain(f"{note}: {error.strerror}. Put back into Slurm's queue, this job would begin anew in another folder, "
                 "unless hydra.run.dir names one.")  # fmt: skip
    return run_dir


def _note(config: Config) -> Path | None:
    """The file that has the folder of this job's run; None outside of Slurm."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    return NOTES / f"{os.environ.get('SLURM_CLUSTER_NAME', 'cluster')}-{job}-{digest(config.to_dict())}"
