"""What signals leave behind, and what a pending one must not take away."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import torch.distributed as dist

from zerokit.fault import Limits, Monitor, monitor
from zerokit.fault.signals import leave_word, word_left


def test_the_word_of_a_signal_needs_no_room_on_the_disk(tmp_path, monkeypatch):
    assert word_left(tmp_path) is None
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "0.1.json"))
    leave_word(signal.SIGTERM)
    assert word_left(tmp_path) == signal.SIGTERM
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [0]


class _Gone:
    def __getattr__(self, name: str) -> None:
        raise dist.DistError("the store is gone")


def _lose_the_store(folder: Path) -> None:
    monitor.POLL_S, monitor.LEAVE_S = 0.05, 0.5

    def record(status: str, cause: str) -> None:
        (folder / status).write_text(cause)

    with Monitor(None, 0, 1, Limits(), folder, record) as watching:
        watching._board._store._store = _Gone()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)


def test_a_signal_after_the_launcher_is_gone_hides_no_cause(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_lose_the_store, args=(tmp_path,))
    process.start()
    process.join(8)
    assert process.exitcode == 1
    assert "the launcher cannot be reached any more" in (tmp_path / "failed").read_text()
