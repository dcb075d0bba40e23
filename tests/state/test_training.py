"""Trainings that are saved, damaged and resumed. Tests name the rows of the fault matrix that they hold."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.ranks import run_ranks
from tests.state.faults import CallingDisk, failing_at
from tests.state.trained import everything, fit, open_trainer
from zerokit.config.errors import ConfigError
from zerokit.fault.monitor import is_consequence
from zerokit.state import folder as folders
from zerokit.state.errors import DamagedState, StateError, StateMismatch
from zerokit.state.folder import saved_states

EVERY = ("state.every=1", "state.keep=99")


# -- row 5: N steps straight against k steps and a resume -------------------------------------------------------------


def straight_and_resumed(folder: Path, words: tuple[str, ...], at: tuple[int, ...], changed: tuple[str, ...]) -> list:
    """Train straight, then from the states of the steps `at` with the words `changed`; what differs at the end."""
    trainer, saver = open_trainer(folder / "straight", *EVERY, *words)
    lines, end = fit(trainer, saver), None
    saver.finish(8)
    end = everything(trainer)
    wrong = []
    for step in at:
        path = folders.step_path(folder / "straight" / "state", step)
        again, other = open_trainer(folder / f"from{step}", f"state.resume={path}", *words, *changed)
        assert again.progress.step == step
        later = fit(again, other)
        other.finish(8)
        mine = everything(again)
        wrong += [f"step {step}: {key}" for key in end if str(mine.get(key)) != str(end[key])]
        wrong += [] if str(later) == str([line for line in lines if line["step"] > step]) else [f"step {step}: metrics"]
    return wrong


@pytest.mark.parametrize(
    "words",
    [
        ("zero=stage0", "batch.accumulation=2"),
        ("zero=stage1", "precision=bf16", "optimizer=sgd", "scheduler=wsd"),
        ("zero=stage2", "precision=fp16", "precision.window=2", "precision.initial_scale=1e8", "train.eval_every=2"),
        ("zero=stage3", "precision=bf16", "precision.master=separate", "batch.accumulation=2", "scheduler=linear"),
    ],
)
def test_row_5_resuming_changes_no_bit(words, tmp_path):
    assert run_ranks(straight_and_resumed, 2, tmp_path, words, (1, 4, 6, 8), ()) == [[], []]


def test_row_5_one_process_and_saving_in_the_foreground(tmp_path):
    assert straight_and_resumed(tmp_path, ("state.asynchronous=false",), (2, 5), ()) == []


def samples(folder: Path, words: tuple[str, ...]) -> list[int]:
    trainer, saver = open_trainer(folder, *words)
    seen, cut = [], trainer.loader.source._train

    def note(indices: torch.Tensor):
        seen.extend(indices.tolist())
        return cut(indices)

    trainer.loader.source._train = note
    fit(trainer, saver)
    saver.finish(8)
    return seen


def test_row_6_another_number_of_ranks_sees_the_same_samples(tmp_path):
    straight = samples(tmp_path / "a", ("train.eval_samples=0",))
    words = ("train.eval_samples=0", "state.every=3", "zero=stage3")
    run_ranks(samples, 2, tmp_path / "b", words)
    for saved in saved_states(tmp_path / "b" / "state")[:1]:
        shutil.rmtree(saved.path)  # the end: the run goes on from step 6
    later = run_ranks(samples, 4, tmp_path / "b", (*words, "zero=stage1"))
    mixed = [later[rank][j] for i in range(0, len(later[0]), 2) for rank in range(4) for j in (i, i + 1)]
    assert mixed == straight[6 * 8 :]


# -- row 3: damage -----------------------------------------------------------------------------------------------------


def run_to_end(folder: Path, *words: str) -> tuple[int, dict]:
    trainer, saver = open_trainer(folder, "state.every=2", *words)
    begun = trainer.progress.step
    fit(trainer, saver)
    saver.finish(8)
    return begun, everything(trainer)


def damage(kind: str, path: Path) -> None:
    data = bytearray(path.read_bytes())
    if kind == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "zero":
        path.write_bytes(bytes(len(data)))
    elif kind == "missing":
        path.unlink()
    elif kind == "swapped":
        shutil.copy(path.parent.parent / "step-00000006" / path.name, path)
    elif kind == "link":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to("elsewhere")


@pytest.mark.parametrize("name", ["rank-00000-of-00001.safetensors", "manifest.json"])
@pytest.mark.parametrize("kind", ["flip", "cut", "zero", "missing", "swapped", "link"])
def test_row_3_a_damaged_state_is_refused_and_the_one_before_is_taken(kind, name, tmp_path, caplog):
    _, end = run_to_end(tmp_path)
    victim = tmp_path / "state" / "step-00000008" / name
    damage(kind, victim)
    with caplog.at_level(logging.WARNING):
        begun, again = run_to_end(tmp_path)
    if (kind, name) == ("swapped", "manifest.json"):
        assert str(victim.parent) in caplog.text  # the manifest is sound, and names files that are not there
    else:
        assert str(victim) in caplog.text
    assert begun == 6 and again == end
    assert [saved.step for saved in saved_states(tmp_path / "state")] == [8, 6, 4]


def test_row_3_a_path_to_a_damaged_state_is_an_error(tmp_path):
    run_to_end(tmp_path / "a")
    path = tmp_path / "a" / "state" / "step-00000004"
    damage("flip", path / "manifest.json")
    with pytest.raises(DamagedState, match="manifest.json"):
        run_to_end(tmp_path / "b", f"state.resume={path}")
    assert path.exists(), "what belongs to another run stays where it is"


def test_row_3_nothing_sound_is_an_error_not_a_start_from_nothing(tmp_path):
    run_to_end(tmp_path)
    for saved in saved_states(tmp_path / "state"):
        damage("cut", saved.path / "manifest.json")
    with pytest.raises(DamagedState):
        run_to_end(tmp_path)


# -- row 4: disks that are full or read-only ---------------------------------------------------------------------------


def full_disk(folder: Path, call: str, nth: int, on_error: str, background: bool) -> list:
    words = ("state.every=2", f"state.on_error={on_error}", f"state.asynchronous={str(background).lower()}")
    disk = CallingDisk()
    trainer, saver = open_trainer(folder, *words, disk=disk)
    error = None
    try:
        for step, _ in trainer.fit():
            if step == 3 and trainer.comm.rank == trainer.comm.world - 1:  # the first state is there
                saver.drain()
                disk.before = failing_at(call, nth).before
            saver.on_step(step)
        saver.finish(8)
    except StateError as failure:
        error = str(failure)
    except RuntimeError as failure:  # a failed save in the background may reach one rank a step before the other
        assert background and is_consequence(failure)
        error = "another rank is gone"
    return [error, trainer.progress.step]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("on_error", ["fail", "continue"])
def test_row_4_a_full_disk_leaves_what_is_there(on_error, background, tmp_path):
    results = run_ranks(full_disk, 2, tmp_path, "write", 1, on_error, background)
    root = tmp_path / "state"
    assert [saved.step for saved in saved_states(root)] == [2]
    assert [path.name for path in root.iterdir()] == ["step-00000002"], "nothing temporary is left"
    told = [error for error, _ in results if error != "another rank is gone"]
    assert told
    for error, step in results:
        if on_error == "fail":
            assert all("rank 1: OSError" in text and "No space left" in text for text in told) and step <= 8
        else:
            assert error is None and step == 8


def test_row_4_it_is_found_out_before_the_first_step(tmp_path, monkeypatch):
    with pytest.raises(StateError, match="Read-only file system.*hydra.run.dir"):
        open_trainer(tmp_path, "state.every=2", disk=failing_at("create", 1, errno.EROFS))
    real = os.statvfs

    class Little:
        def __init__(self, path):
            self.f_frsize, self.f_bavail = real(path).f_frsize, 1

    monkeypatch.setattr(os, "statvfs", Little)
    with pytest.raises(StateError, match="GiB left. Make room"):
        open_trainer(tmp_path, "state.every=2")
    trainer, _ = open_trainer(tmp_path, "state.every=2", "state.on_error=continue")
    assert trainer.progress.step == 0
    open_trainer(tmp_path)  # what saves nothing needs no room


def test_row_4_room_for_fewer_states_than_are_kept_is_told(tmp_path, monkeypatch, caplog):
    _, saver = open_trainer(tmp_path, "state.every=2", "state.keep=2")
    assert not caplog.messages
    size = saver._file().nbytes

    class Some:
        f_frsize, f_bavail = size, 3

    monkeypatch.setattr(os, "statvfs", lambda _: Some)
    open_trainer(tmp_path, "state.every=2", "state.keep=2")  # one more than are kept, while it is written
    (told,) = caplog.messages
    assert "room for 2 more states" in told and told.endswith("state.keep=2 needs 3. Make room, or lower state.keep.")
    caplog.clear()
    open_trainer(tmp_path, "state.every=5", "state.keep=2")
    assert not caplog.messages, "no more than two will be written"
    folders.step_path(tmp_path / "state", 2).mkdir()
    saver.prepare()
    assert not caplog.messages, "one is there already"


def test_row_2_the_names_of_the_folders_above_are_made_durable_too(tmp_path):
    """The launcher or Hydra has made them, and a state in a folder without a name is lost."""
    synced = []
    disk = CallingDisk(lambda _, name, arguments: name == "sync_folder" and synced.append(arguments[0]))
    open_trainer(tmp_path / "run", "state.every=2", disk=disk)
    assert {tmp_path / "run", tmp_path, tmp_path.parent} <= set(synced)


# -- row 17, 18: whose state it is -------------------------------------------------------------------------------------


def test_row_17_what_a_killed_save_left_is_removed(tmp_path):
    stale = tmp_path / "state" / f"step-00000004{folders.TEMPORARY}0123"
    stale.mkdir(parents=True)
    (stale / "rank-00000-of-00001.safetensors").write_bytes(b"half")
    run_to_end(tmp_path)
    assert [saved.step for saved in saved_states(tmp_path / "state")] == [8, 6, 4]
    assert not stale.exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("optimizer.lr=0.5",), "optimizer.lr: 0.01 in the state, 0.5 here"),
        (("model.dropout=0",), "model.dropout: 0.2 in the state, 0.0 here"),
        (("data.noise=0.5",), "in the state, 0.5 here\n  data.sha256: "),
        (("batch.global=4",), "batch.global: 8 in the state, 4 here"),
        (("optimizer=sgd",), "optimizer.name: adamw in the state, sgd here"),
    ],
)
def test_row_18_another_training_is_refused_field_by_field(words, line, tmp_path):
    run_to_end(tmp_path)
    with pytest.raises(StateMismatch) as error:
        run_to_end(tmp_path, *words)
    assert line in str(error.value)


def test_row_18_what_is_named_may_change(tmp_path):
    run_to_end(tmp_path)
    shutil.rmtree(tmp_path / "state" / "step-00000008")
    allowed = "state.allow_changed=[optimizer,batch.global]"
    begun, end = run_to_end(tmp_path, "optimizer=sgd", "optimizer.lr=0.5", "batch.global=4", allowed)
    assert begun == 6 and end["counters"]["samples"] == 6 * 8 + 2 * 4
    with pytest.raises(ConfigError, match="state.resume=never: .* up to step 8"):
        run_to_end(tmp_path, "state.resume=never")


# -- which state -------------------------------------------------------------------------------------------------------


def test_a_path_goes_back_in_another_folder_only(tmp_path):
    _, end = run_to_end(tmp_path / "a")
    older = tmp_path / "a" / "state" / "step-00000004"
    with pytest.raises(ConfigError, match="newer state, of step 8"):
        run_to_end(tmp_path / "a", f"state.resume={older}")
    assert run_to_end(tmp_path / "b", f"state.resume={older}") == (4, end)
    assert run_to_end(tmp_path / "b", f"state.resume={older}") == (8, end), "the same command again goes on"
    assert run_to_end(tmp_path / "c", f"state.resume={tmp_path / 'a'}") == (8, end)
    with pytest.raises(ConfigError, match="expected a state"):
        run_to_end(tmp_path / "d", f"state.resume={tmp_path / 'nowhere'}")


def test_states_are_kept_as_asked_and_the_end_is_saved(tmp_path):
    trainer, saver = open_trainer(tmp_path, "state.every=3", "state.keep=2")
    fit(trainer, saver)
    saver.finish(8)
    assert [saved.step for saved in saved_states(tmp_path / "state")] == [8, 6]
    trainer, saver = open_trainer(tmp_path / "none")
    fit(trainer, saver)
    saver.finish(8)
    assert not (tmp_path / "none" / "state").exists()


def test_older_states_go_only_once_the_newer_one_has_been_read_back(tmp_path):
    disk, root = CallingDisk(), tmp_path / "state"

    def before(_: int, name: str, arguments: tuple) -> None:
        if name == "sync_folder" and arguments[0] == root and (root / "step-00000006").exists():
            damage("flip", root / "step-00000006" / "rank-00000-of-00001.safetensors")

    disk.before = before
    with pytest.raises(DamagedState, match="step-00000006"):
        trainer, saver = open_trainer(tmp_path, "state.every=2", "state.keep=1", disk=disk)
        fit(trainer, saver)
        saver.finish(8)
    assert [saved.step for saved in saved_states(root)] == [6, 4]
    _, end = run_to_end(tmp_path / "straight")
    assert run_to_end(tmp_path, "state.keep=1") == (4, end)


# -- when --------------------------------------------------------------------------------------------------------------


def test_a_step_is_saved_once(tmp_path):
    trainer, saver = open_trainer(tmp_path, "state.every=4")
    for step, _ in trainer.fit():
        saver.on_step(step)
        if step == 4:
            saver.save_now(4, wait=True)
            assert saver.last_step == 4
    saver.finish(8)
    saver.finish(8)
    assert [saved.step for saved in saved_states(saver.root)] == [8, 4]


def bereft(folder: Path) -> str:
    trainer, saver = open_trainer(folder, "state.every=1", "state.on_error=continue")
    if trainer.comm.rank == 1:
        return "left"
    saver.save_now(1)
    try:
        saver.drain()
    except RuntimeError as error:
        return type(error).__name__
    return "saved"


def test_another_rank_that_is_gone_is_no_failed_save(tmp_path):
    """What the exchange raises comes out as it is, so that the launcher can tell a consequence from a cause."""
    first, second = run_ranks(bereft, 2, tmp_path)
    assert second == "left" and first not in ("saved", "StateError")


def test_one_save_is_under_way_at_most(tmp_path):
    import threading
    import time

    running, most = [0], [0]
    disk = CallingDisk()

    def before(_: int, name: str, arguments: tuple) -> None:
        if name == "create" and threading.current_thread().name == "state":
            running[0] += 1
            most[0] = max(most[0], running[0])
            time.sleep(0.02)
        if name == "rename":
            running[0] = 0

    disk.before = before
    trainer, saver = open_trainer(tmp_path, *EVERY, disk=disk)
    fit(trainer, saver)
    saver.finish(8)
    assert most[0] == 2  # the rank's file and the manifest of one state
    assert len(saved_states(saver.root)) == 8
