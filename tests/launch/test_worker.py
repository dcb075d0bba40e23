from __future__ import annotations

import multiprocessing
import os

import pytest

from zerokit.launch.worker import work


def marked(config: dict, run_dir: str) -> dict:
    """As the worker of a training."""
    open(os.path.join(run_dir, "begun"), "w").close()
    return {}


@pytest.mark.parametrize("alive", [True, False])
def test_a_worker_whose_launcher_is_gone_does_not_begin(tmp_path, alive):
    """The launcher may be killed between the fork and the worker's first call."""
    launcher = os.getpid() if alive else 1
    arguments = ("tests.launch.test_worker:marked", {}, str(tmp_path), launcher)
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join(20)
    assert (process.exitcode, (tmp_path / "begun").exists()) == ((0, True) if alive else (1, False))
