"""A new thread starts on GPU 0: those that call CUDA must take the device of their rank first."""

from __future__ import annotations

import threading

import pytest
import torch

from zerokit.state.rankfile import RankFile
from zerokit.state.snapshot import HostCopy
from zerokit.train.loader import Loader

GPU = torch.device("cuda", 1)


@pytest.fixture
def calls(monkeypatch) -> list:
    """What threads ask of a fake GPU, and on which device each does."""
    calls, own = [], threading.local()
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(own, "device", device))

    def note(tensor: torch.Tensor) -> torch.Tensor:
        calls.append((threading.current_thread() is threading.main_thread(), getattr(own, "device", None)))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", note)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, non_blocking: tensor)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority: None)
    return calls


def test_batches_are_pinned_on_the_device_of_the_rank(calls):
    class Source:
        def batch(self, start: int, count: int) -> tuple:
            return (torch.zeros(count),)

    batches = Loader(Source(), 2, 1, 2, GPU).from_sample(0)
    next(batches)
    batches.close()
    assert set(calls) == {(False, GPU)}


def test_a_copy_is_awaited_on_the_device_of_the_rank(calls):
    class Event:
        def synchronize(self) -> None:
            torch.zeros(1).pin_memory()

    copy = HostCopy(RankFile([]), GPU)
    copy._done = Event()
    thread = threading.Thread(target=copy.wait)
    thread.start()
    thread.join()
    assert calls == [(False, GPU)]
