"""Rows 1 and 2 of the fault matrix, on a few calls in every run: `tests/chaos` tries them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ranks import run_ranks
from tests.state import faults
from tests.state.faults import CALLS, CallingDisk, JournalDisk, PowerLoss
from tests.state.killing import STEPS, count_calls, outcome_after, save_steps
from tests.state.trained import fresh, trained
from zerokit.state.disk import Disk
from zerokit.state.errors import StateError
from zerokit.state.folder import saved_states
from zerokit.state.read import verify


def test_the_faulty_disks_know_every_call():
    own = {name for name in vars(Disk) if not name.startswith("_")}
    assert own == set(CALLS)
    assert faults.CALLS == CALLS


def test_a_save_makes_the_calls_that_durability_needs(tmp_path):
    disk = CallingDisk()
    engine = trained(2)
    engine.state.save(tmp_path / "s", disk=disk)
    written = ["create", "sync", "close"]
    calls = [call for call in disk.calls if call != "write"]
    assert calls == ["make_folder", *written, *written, "sync_folder", "rename", "sync_folder"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> list[dict]:
    """What the ranks of an undisturbed run end with."""
    return run_ranks(save_steps, 2, tmp_path_factory.mktemp("straight"), None, False)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_row_1_a_rank_killed_in_a_save_leaves_a_sound_state(rank, background, reference, tmp_path):
    calls = count_calls(tmp_path / "count", background)[rank]
    for number in sorted({len(calls) // 5, len(calls) // 2, len(calls) - 1}):
        wrong = outcome_after(tmp_path / str(number), rank, number, background, reference)
        assert wrong == [], f"killed before call {number}, {calls[number - 1]}"


def journal(folder: Path) -> list:
    disk = JournalDisk()
    folder.mkdir()
    save_steps(folder, disk, background=False)
    return disk.journal


@pytest.mark.parametrize("names_survive", [False, True])
def test_row_2_a_power_loss_leaves_a_sound_state(names_survive, tmp_path):
    entries = journal(tmp_path / "run")
    reached = []
    for count in range(0, len(entries) + 1):
        image = tmp_path / f"after{count}"
        PowerLoss(tmp_path / "run", entries[:count]).write(image, names_survive)
        sound = [saved.step for saved in saved_states(image / "state") if is_sound(saved.path)]
        assert len(sound) == len(saved_states(image / "state")), f"a state that is none, after {entries[count - 1][:2]}"
        reached.append(max(sound, default=0))
    assert reached == sorted(reached) and reached[-1] == STEPS, "what was durable stays"


def is_sound(path: Path) -> bool:
    try:
        verify(path)
    except StateError:
        return False
    return True


def test_a_power_loss_is_simulated(tmp_path):
    """The simulation notices a save that makes nothing durable."""

    class Hasty(JournalDisk):
        def sync(self, file: int) -> None:
            pass

        def sync_folder(self, path: Path) -> None:
            pass

    for survive, expected in ((True, ["s"]), (False, [])):
        root = tmp_path / str(survive)
        root.mkdir()
        disk = Hasty()
        engine = fresh(0)
        engine.state.save(root / "s", disk=disk)
        image = tmp_path / f"image{survive}"
        PowerLoss(root, disk.journal).write(image, survive)
        assert [path.name for path in image.iterdir()] == expected
        assert not any(is_sound(path) for path in image.iterdir())
