"""What stops a run is said before anything heavy is imported, and limits of the system by their names."""

from __future__ import annotations

import errno
import resource

import pytest

from tests.commands import python
from zerokit.config import errors
from zerokit.config.errors import ConfigError, usable_folder
from zerokit.launch.before import allow_open_files

REFUSED = """
import resource, sys
from pathlib import Path
from tests.config.arguments import config
from zerokit.config import checks
from zerokit.config.errors import ConfigError
from zerokit.estimate.start import start
from zerokit.launch import before
from zerokit.state.lock import locked

def refused(told, *words, folder=Path("run")):
    try:
        start(config("tracker=none", "launch.nproc=2", *words), folder)
    except ConfigError as error:
        assert told in str(error), error
    else:
        raise AssertionError(told)

before.may_have_gpu = lambda: False
refused("this host has none", "launch.device=cuda")
with locked(Path("used")):
    refused("in use by another job", "launch.device=cpu", folder=Path("used"))
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
refused("A process may open 24 files, and 2 ranks need 64", "launch.device=cpu")
assert "torch" not in sys.modules
assert not Path("run").exists()
"""


def test_refusals_come_before_torch(tmp_path):
    done = python("-c", REFUSED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_soft_limit_of_open_files_is_raised(monkeypatch):
    limits, asked = [(24, 4096)], []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: asked.append(pair))
    allow_open_files(2)
    assert asked == [(64, 4096)]
    limits.append((resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    allow_open_files(1000)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("number", "file", "told"),
    [
        (errno.EMFILE, "/x/config.yaml", "ulimit -n"),
        (errno.EMFILE, None, "ulimit -n"),
        (errno.EFBIG, "/x/config.yaml", "ulimit -f"),
        (errno.ENOSPC, None, "/dev/shm is full"),
        (errno.ENOSPC, "/x/config.yaml", "hydra.run.dir=DIR"),
    ],
)
def test_what_the_system_refuses_is_named(monkeypatch, number, file, told):
    monkeypatch.setattr(errors, "_is_full", lambda folder: True)
    with pytest.raises(ConfigError, match=told), usable_folder():
        raise OSError(number, "No", file)
