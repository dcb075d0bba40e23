from __future__ import annotations

import pytest
import torch

from zerokit.comm.stream import Stream


class FakeStream:
    """Notes in `log` what is recorded on it and what it waits for."""

    def __init__(self, name: str, log: list):
        self.name, self.log = name, log

    def record_event(self, event: None = None) -> str:
        return f"mark of {self.name}"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for the {event}")


@pytest.fixture
def log(monkeypatch) -> list:
    """What happens on the fake streams of a GPU; work is issued on "main" at first."""
    log: list[str] = []
    current, made = [FakeStream("main", log)], iter(range(9))

    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority: FakeStream(f"side {next(made)}", log))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current[0])
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: current.__setitem__(0, stream))
    return log


def test_the_compute_stream_is_the_callers_also_within_another(log):
    gpu = torch.device("cuda", 0)
    compute, first, second = Stream(gpu, current=True), Stream(gpu), Stream(gpu)
    with first as stream:
        stream.wait(compute.record())
        with second as inner:
            inner.wait(compute.record())
        compute.wait(stream.record())
    second.wait(compute.record())
    assert torch.cuda.current_stream(0).name == "main"
    assert log == [
        "side 0 waits for the mark of main",
        "side 1 waits for the mark of main",
        "main waits for the mark of side 0",
        "side 1 waits for the mark of main",
    ]
