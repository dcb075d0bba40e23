from __future__ import annotations

import os
from concurrent.futures.process import BrokenProcessPool

import pytest

from zerokit.config.errors import ConfigError
from zerokit.estimate.own_process import in_own_process


def refuse() -> None:
    raise ConfigError("not so")


def test_it_is_another_process_whose_results_and_errors_come_back():
    assert in_own_process(os.getpid) != os.getpid()
    with pytest.raises(ConfigError, match="^not so$"):
        in_own_process(refuse)


def test_a_process_that_dies_is_an_error():
    with pytest.raises(BrokenProcessPool):
        in_own_process(os._exit, 1)
