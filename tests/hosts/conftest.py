from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.network import Network
from tests.hosts.packages import NETWORK, SLURM, missing
from tests.hosts.slurm import Slurm


@pytest.fixture(scope="session")
def network(request, tmp_path_factory) -> Iterator[Network]:
    """Three hosts, or a skipped test where they cannot be made."""
    if reason := missing(NETWORK, request.config.getoption("install")):
        pytest.skip(reason)
    network = Network(tmp_path_factory.mktemp("network"))
    try:
        network.up()
    except RuntimeError as error:
        network.down()
        pytest.skip(f"this machine makes no hosts of namespaces: {error}")
    yield network
    network.down()


@pytest.fixture(scope="session")
def cluster(request, network, tmp_path_factory) -> Iterator[Slurm]:
    """Slurm, with `node1` and `node2` as nodes and `login` as the host of its controller."""
    if reason := missing(SLURM, request.config.getoption("install")):
        pytest.skip(reason)
    slurm = Slurm(network, tmp_path_factory.mktemp("slurm"))
    try:
        slurm.up()
        yield slurm
    finally:
        slurm.down()


@pytest.fixture
def slurm(cluster, tmp_path) -> Iterator[Slurm]:
    """Slurm for one test, whose jobs end with it. Commands run in the test's folder."""
    cluster.cwd = Path(tmp_path)
    yield cluster
    cluster.cancel_all()
