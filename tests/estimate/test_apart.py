from __future__ import annotations

import os
from concurrent.futures.process import BrokenProcessPool

import pytest

from zerokit.config.errors import ConfigError
from zerokit.estimate.apart import apart


def refuse() -> None:
    raise ConfigError("not so")


def test_it_is_another_process_whose_results_and_errors_come_back():
    assert apart(os.getpid) != os.getpid()
    with pytest.raises(ConfigError, match="^not so$"):
        apart(refuse)


def test_a_process_that_dies_is_an_error():
    with pytest.raises(BrokenProcessPool):
        apart(os._exit, 1)
