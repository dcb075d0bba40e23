"""Reads fail on one rank alone, in every place where a state is read: all ranks come to the same end, and soon."""

from __future__ import annotations

import errno
import shutil
import time
from pathlib import Path

from safetensors import SafetensorError

from tests.ranks import run_ranks
from tests.state.trained import fit, open_trainer
from zerokit.state import folder as folders
from zerokit.state import manifest as manifests
from zerokit.state import read
from zerokit.state.folder import FOLDER, saved_states

SOON_S = 30.0
FAULTS = {
    "EIO": lambda: OSError(errno.EIO, "Input/output error"),
    "vanished": lambda: FileNotFoundError(errno.ENOENT, "No such file or directory"),
    "stale": lambda: OSError(errno.ESTALE, "Stale file handle"),
    "short": lambda: SafetensorError("InvalidHeaderLength"),
}
PLACES = {
    "manifest": (manifests, "_read"),
    "digest": (read, "file_digest"),
    "header": (read.StateReader, "_file"),
    "values": (read.StateReader, "_slice"),
}


def _saved(folder: str) -> None:
    fit(*open_trainer(folder, "state.every=2", "train.steps=4", "state.asynchronous=false"))


CASES = [
    (place, fault, rank)
    for place in PLACES
    for fault in FAULTS
    for rank in (0, 1)
    if fault != "short" or place in ("header", "values")
]


def _resumed(folder: str) -> dict[str, tuple[int, float]]:
    """By case, the step that this rank goes on from when reads of the newest state fail on one of them, and seconds."""
    return {f"{place} {fault} {rank}": _resume(f"{folder}/{place}-{fault}-{rank}", place, fault, rank)
            for place, fault, rank in CASES}  # fmt: skip


def _resume(folder: str, place: str, fault: str, rank: int) -> tuple[int, float]:
    import torch.distributed as dist

    owner, name = PLACES[place]
    original = getattr(owner, name)

    def fails(*arguments):
        about = arguments[0].folder if place in ("header", "values") else arguments[0]
        if dist.get_rank() == rank and "step-00000004" in str(about):
            raise FAULTS[fault]()
        return original(*arguments)

    setattr(owner, name, fails)
    began = time.monotonic()
    trainer, _ = open_trainer(folder, "state.every=2", "train.steps=4")
    setattr(owner, name, original)
    return trainer.progress.step, time.monotonic() - began


def test_a_read_that_fails_on_one_rank_ends_alike_on_all(tmp_path):
    run_ranks(_saved, 2, str(tmp_path / "saved"))
    for place, fault, rank in CASES:
        shutil.copytree(tmp_path / "saved", tmp_path / f"{place}-{fault}-{rank}")
    for outcomes in run_ranks(_resumed, 2, str(tmp_path), timeout=300):
        assert {case: step for case, (step, _) in outcomes.items()} == dict.fromkeys(outcomes, 2)
        assert max(seconds for _, seconds in outcomes.values()) < SOON_S


def _unable_to_rename(folder: str) -> list:
    def full(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    folders.set_aside = full
    (newest,) = (saved.path for saved in saved_states(Path(folder) / FOLDER)[:1])
    (newest / "manifest.json").write_bytes(b"")
    trainer, _ = open_trainer(folder, "state.every=4", "train.steps=4")
    return trainer.progress.step


def test_a_damaged_state_that_cannot_be_renamed_is_passed_by_on_all_ranks(tmp_path):
    run_ranks(_saved, 2, str(tmp_path))
    assert run_ranks(_unable_to_rename, 2, str(tmp_path)) == [2, 2]


def _odd(rank: int) -> str:
    import torch.distributed as dist

    from zerokit.comm.exchange import Exchange

    def work():
        if dist.get_rank() == rank:
            raise ZeroDivisionError("odd")

    try:
        read.together(Exchange(30), Path("there"), work)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def test_an_error_of_another_kind_is_raised_on_all(tmp_path):
    assert run_ranks(_odd, 2, 1) == ["StateError: there: ZeroDivisionError: odd", "ZeroDivisionError: odd"]


def test_what_a_killed_save_left_goes_with_a_run_that_saves_nothing(tmp_path):
    left = tmp_path / FOLDER / "step-00000002.tmp-1234"
    left.mkdir(parents=True)
    (left / "x").touch()
    open_trainer(tmp_path, "state.every=0")
    assert not left.exists()
