"""Ranks that are killed at a call of a save, and the run that starts again after them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

from tests.ranks import run_ranks
from tests.state.faults import CallingDisk, killed_at
from tests.state.trained import everything, fit, open_trainer
from zerokit.state.disk import Disk
from zerokit.state.folder import TEMPORARY, saved_states

STEPS = 3
WORDS = ("train.steps=3", "state.every=1", "state.keep=1", "train.eval_samples=0", "model.layers=1", "batch.global=6")
"""Three saves: into an empty folder, beside an older state, and with one to remove."""


def save_steps(folder: Path, disk: Disk | None, background: bool) -> dict:
    """Train and save; what the training ends with."""
    words = (*WORDS, f"state.asynchronous={str(background).lower()}")
    trainer, saver = open_trainer(folder, *words, disk=disk)
    fit(trainer, saver)
    saver.finish(STEPS)
    return everything(trainer)


def _calls(folder: Path, background: bool) -> list[str]:
    disk = CallingDisk()
    save_steps(folder, disk, background)
    return disk.calls


def count_calls(folder: Path, background: bool, world: int = 2) -> list[list[str]]:
    """The calls that every rank makes in an undisturbed run."""
    return run_ranks(_calls, world, folder, background)


def _victim(rank: int, world: int, store: str, folder: Path, victim: int, call: int, background: bool) -> None:
    torch.set_num_threads(1)
    with open(os.devnull, "w") as silence:
        os.dup2(silence.fileno(), 2)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        save_steps(folder, killed_at(call) if rank == victim else None, background)
    finally:
        os._exit(1)


def _resumed(folder: Path) -> tuple[int, dict]:
    trainer, saver = open_trainer(folder, *WORDS)
    begun = trainer.progress.step
    fit(trainer, saver)
    saver.finish(STEPS)
    return begun, everything(trainer)


def kill(folder: Path, victim: int, call: int, background: bool, world: int = 2) -> None:
    """Run until rank `victim` is killed before its call `call`; then the others are killed, as a launcher would."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as store:
        arguments = (world, os.path.join(store, "store"), folder, victim, call, background)
        ranks = [context.Process(target=_victim, args=(rank, *arguments)) for rank in range(world)]
        for process in ranks:
            process.start()
        ranks[victim].join(60)
        assert ranks[victim].exitcode == -signal.SIGKILL, f"rank {victim} ended with {ranks[victim].exitcode}"
        for process in ranks:
            process.join(0.3)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.join()


def outcome_after(
    folder: Path, victim: int, call: int, background: bool, reference: list[dict], world: int = 2
) -> list[str]:
    """Kill a rank, start again, and say what is wrong with the end; reference: of an undisturbed run."""
    kill(folder, victim, call, background, world)
    left = [saved.step for saved in saved_states(folder / "state")]
    ends = run_ranks(_resumed, world, folder)
    wrong = [] if [end for _, end in ends] == reference else ["the resumed training ends elsewhere"]
    wrong += (
        [] if {begun for begun, _ in ends} == {max(left, default=0)} else ["it did not start from the newest state"]
    )
    wrong += [f"{path.name} is left" for path in (folder / "state").iterdir() if TEMPORARY in path.name]
    return wrong
