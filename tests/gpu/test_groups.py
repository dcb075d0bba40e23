"""Groups of ranks on GPUs: two of them taken as two hosts, whose links, groups and streams are those between hosts."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.process import GPUS, needs_gpu
from tests.ranks import run_ranks
from tests.zero.training import Case, make_engine, train
from zerokit.comm import Communicator
from zerokit.zero.access.replicas import Replicas

pytestmark = [*needs_gpu, pytest.mark.skipif(GPUS < 2, reason="two GPUs are needed")]
CASE = Case(steps=6, accumulation=2, clip_norm=1.0, compute=torch.bfloat16, master="split", cuda=True)


def losses(stage: int, shard_size: int | None, states: str, peers: bool) -> tuple[list[float], str | None]:
    comm = Communicator(torch.device("cuda", torch.cuda.current_device()), shard_size=shard_size)
    engine = make_engine(CASE, stage, comm=comm, states=states, peers=peers)
    found = train(engine, CASE)
    return found, Replicas(engine).difference()


@pytest.mark.parametrize("peers", [False, True])
@pytest.mark.parametrize("states", ["group", "all"])
@pytest.mark.parametrize("shard_size", [1, 2])
def test_two_gpus_as_two_hosts_follow_stage_0(shard_size, states, peers):
    def run(*args) -> list:
        return run_ranks(losses, 2, *args, backend="nccl", timeout=300)

    wanted = run(0, None, "group", peers)
    for stage in (1, 2, 3):
        for (found, difference), (expected, _) in zip(run(stage, shard_size, states, peers), wanted, strict=True):
            assert found == pytest.approx(expected, rel=2e-3)
            assert difference is None
