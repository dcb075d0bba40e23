"""Where a run's training goes on, and what saves it from there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zerokit.callbacks import Callback
from zerokit.config.environment import shown
from zerokit.config.schedule import fixed_length
from zerokit.config.schema import Config
from zerokit.state.disk import Disk
from zerokit.state.folder import FOLDER
from zerokit.state.resume import SCHEDULE, candidates, identity, started_again
from zerokit.train.base import base_digest
from zerokit.train.export import classes_of
from zerokit.train.saving import Saver
from zerokit.train.trainer import Trainer


def open_state(
    trainer: Trainer,
    cfg: Config,
    config: dict[str, Any],
    folder: Path,
    disk: Disk | None = None,
    callbacks: Mapping[str, Callback] | None = None,
) -> tuple[Saver, Path | None]:
    """What saves the run's states, and the state that the trainer now goes on from. A collective. callbacks: those
    whose state goes with it, by name.

    Raises:
        StateError: no state can be written or read. StateMismatch: the one to go on from is of another training.
    """
    resolved = {
        "batch.global": trainer.batch.global_,
        "data.sha256": trainer.info.sha256,
        "train.loss_mean": trainer.objective.mean,
        SCHEDULE: fixed_length(cfg),
    }
    if cfg.adapter.name != "none":
        resolved["adapter.base"] = base_digest(cfg, trainer.engine.module)
    config = shown(config)
    facts = {"precision": cfg.precision.name, "config": config, "classes": classes_of(trainer.engine.module)}
    saver = Saver(
        trainer, folder / FOLDER, cfg.state, identity(config, **resolved), facts, disk, cfg.launch.save_timeout_s
    )
    saver.callbacks = callbacks or {}
    paths = candidates(folder, cfg.state.resume, started_again()) if trainer.comm.rank == 0 else []
    resumed = saver.resume(paths)
    saver.prepare()
    return saver, resumed
