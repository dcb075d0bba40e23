from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from zerokit.comm import process
from zerokit.config.schema import LaunchConfig


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_one_process_needs_no_group():
    with process.start(LaunchConfig(device="cpu", threads=2)) as me:
        assert (me.rank, me.local_rank, me.world, me.device) == (0, 0, 1, torch.device("cpu"))
        assert torch.get_num_threads() == 2
        assert not dist.is_initialized()


def test_what_holds_on_to_the_group_is_closed_before_it(monkeypatch):
    closed = []

    class Recording:
        def __init__(self, name):
            self.name = name
            process.close_first(self)

        def close(self):
            closed.append(self.name)

    kept = Recording("recording")
    Recording("one that is gone")
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: closed.append("group"))
    process.close_group()
    assert closed == [kept.name, "group"]
    two = process.Process(0, 0, 2, torch.device("cpu"))
    monkeypatch.setattr(process, "open_group", lambda launch: two)
    with process.start(LaunchConfig(device="cpu", threads=1)):
        assert len(closed) == 2
    assert closed[2:] == [kept.name, "group"]
    with pytest.raises(ArithmeticError), process.start(LaunchConfig(device="cpu", threads=1)):
        raise ArithmeticError
    assert closed[4:] == [kept.name], "closing the group after an error would wait for the other ranks"


def test_cores_are_shared(monkeypatch):
    monkeypatch.setattr(process.os, "sched_getaffinity", lambda pid: set(range(12)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with process.start(LaunchConfig(device="cpu")):
        assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("device", "local_rank", "gpus", "expected"),
    [("auto", 1, 2, "cuda:1"), ("auto", 1, 0, "cpu"), ("cpu", 1, 2, "cpu"), ("cuda", 3, 1, "cuda:0")],
)
def test_the_device_follows_the_local_rank(monkeypatch, device, local_rank, gpus, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(process, "compute_first", lambda device: None)
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    with process.start(LaunchConfig(device=device)) as me:
        assert str(me.device) == expected


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RuntimeError, match="PyTorch sees no GPU"), process.start(LaunchConfig(device="cuda")):
        pass
