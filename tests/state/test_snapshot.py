"""The host memory of a copy of the state: locked for a GPU, unlocked before it goes."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch

from tests.state.trained import SMALL, fit, open_trainer
from zerokit.comm import pinned
from zerokit.state.piece import whole
from zerokit.state.rankfile import RankFile
from zerokit.state.snapshot import HostCopy

GPU = torch.device("cuda", 0)


@pytest.fixture
def locked(monkeypatch) -> dict[int, int]:
    """What a fake driver holds locked: addresses and bytes. It refuses what is locked already."""
    locked: dict[int, int] = {}

    def register(address: int, size: int, flags: int) -> int:
        overlaps = any(address < start + length and start < address + size for start, length in locked.items())
        if not overlaps:
            locked[address] = size
        return 712 if overlaps else 0

    def check(error: int) -> None:
        assert error == 0, error

    runtime = SimpleNamespace(cudaHostRegister=register, cudaHostUnregister=locked.pop)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "check_error", check)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority: None)
    return locked


def copy_of(size: int) -> HostCopy:
    return HostCopy(RankFile([whole("x", torch.zeros(size))]), GPU)


def test_memory_is_unlocked_when_it_is_closed(locked):
    copy = copy_of(1000)
    assert list(locked.values()) == [copy.nbytes]
    copy.close()
    copy.close()
    assert not locked


def test_memory_is_unlocked_before_it_can_be_another_ones(locked):
    for _ in range(5):  # the system gives the same addresses again
        copy = copy_of(1 << 22)
        assert len(locked) == 1
        del copy
        gc.collect()
        assert not locked


def test_without_pages_of_2_mib_there_is_memory_too(locked, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(pinned.mmap, "mmap", fail)
    copy = copy_of(1000)
    assert list(locked.values()) == [copy.nbytes] and copy.nbytes >= 4000


def test_a_finished_training_gives_its_memory_back(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(HostCopy, "close", lambda copy: closed.append(copy.nbytes))
    trainer, saver = open_trainer(tmp_path, "state.every=3", *SMALL)
    fit(trainer, saver)
    assert closed == []
    saver.finish(trainer.progress.step)
    assert len(closed) == 1 and closed[0] > 0
