"""Transport by peer memory, on the CPU: processes that map the same files stand in for GPUs that reach each other."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.ranks import run_ranks
from tests.zero.training import Case, make_engine, train
from zerokit.comm.communicator import Communicator
from zerokit.comm.peer import PeerMemory


class FileMemory(PeerMemory):
    """Buffers in files that every rank maps."""

    def __init__(self, folder: str, name: str, elements: int, dtype: torch.dtype):
        ranks = range(dist.get_world_size())
        peers = []
        for rank in ranks:
            path = Path(folder) / f"{name}.{rank}"
            if rank == dist.get_rank():
                path.write_bytes(bytes(elements * dtype.itemsize))
            dist.barrier()
            peers.append(torch.from_file(str(path), shared=True, size=elements, dtype=dtype))
        super().__init__(peers[dist.get_rank()], peers, dist.get_rank())

    def barrier(self) -> None:
        dist.barrier()


def outcome(case: Case, stages: list[int], folder: str | None) -> list[tuple[str, list[float]]]:
    """Digest and losses per stage, with peer memory in `folder` or (None) by collectives."""
    if folder is not None:
        names = iter(range(1000))
        Communicator.peer_memory = lambda self, elements, dtype: FileMemory(folder, str(next(names)), elements, dtype)
    found = []
    for stage in stages:
        engine = make_engine(case, stage, peers=folder is not None)
        found.append((train(engine, case), engine.reader.sha256()))
        expected = folder is not None and stage >= 2 and engine.comm.world > 1
        assert (type(engine.reducer._wire).__name__ == "PeerWire") == expected
    return found


BF16 = dict(compute=torch.bfloat16, master="split")


@pytest.mark.parametrize("model", ["plain", "unused", "frozen", "nested", "tied", "table"])
def test_peer_transport_changes_no_bit_at_two_ranks(model):
    case = Case(model=model, steps=3, clip_norm=0.5)
    with tempfile.TemporaryDirectory() as folder:
        peers = run_ranks(outcome, 2, case, [1, 2, 3], folder)
    assert peers == run_ranks(outcome, 2, case, [1, 2, 3], None)


def test_accumulation_adds_rank_by_rank():
    # peers add each rank's micro-batch to the sum so far, the collective the sum of the ranks': one ULP of a gradient
    case = Case(model="table", steps=3, accumulation=3, clip_norm=0.5)
    with tempfile.TemporaryDirectory() as folder:
        peers = run_ranks(outcome, 2, case, [2, 3], folder)
    assert all(rank[0] == rank[1] for rank in peers)
    collective = run_ranks(outcome, 2, case, [2, 3], None)
    assert peers[0][0][0] == pytest.approx(collective[0][0][0], rel=1e-5)


def test_bf16_travels_and_fp32_is_summed():
    # the collective sums fp32 copies of the bf16 gradients: the same values, twice the traffic
    case = Case(steps=4, **BF16)
    with tempfile.TemporaryDirectory() as folder:
        peers = run_ranks(outcome, 2, case, [2, 3], folder)
    assert peers == run_ranks(outcome, 2, case, [2, 3], None)


@pytest.mark.parametrize("reduce", [torch.float32, torch.bfloat16])
def test_three_ranks_agree_within_rounding(reduce):
    # three addends are summed in fp32 and rounded once at the most, the collective rounds each sum: 2**-8 of a gradient
    case = Case(model="table", steps=3, reduce=reduce, **BF16)
    with tempfile.TemporaryDirectory() as folder:
        peers = run_ranks(outcome, 3, case, [2, 3], folder)
    collective = run_ranks(outcome, 3, case, [2, 3], None)
    assert peers[0][0] == peers[0][1] and len({rank[0][1] for rank in peers}) == 1
    assert peers[0][0][0] == pytest.approx(collective[0][0][0], rel=2e-2)


def table(folder: str) -> tuple:
    """Whether the embedding is read in place, what gathered() shows of it afterwards, and the error of a bad token."""
    names = iter(range(1000))
    Communicator.peer_memory = lambda self, elements, dtype: FileMemory(folder, str(next(names)), elements, dtype)
    engine = make_engine(Case(model="table", steps=2), 3, peers=True)
    unit = next(u for u in engine.units if u.name == "embed")
    train(engine, Case(model="table", steps=2))
    gathers = engine.comm.traffic["all_gather"]
    tokens = torch.tensor([[0, 22, 3, 3, 7]])
    with torch.no_grad():
        rows = engine.module.embed(tokens)
    assert engine.comm.traffic["all_gather"] == gathers  # nothing was gathered for them
    with engine.gathered() as model:
        same = torch.equal(rows, model.embed.weight[tokens])
    with pytest.raises(RuntimeError, match="outside its table"):
        engine.module.embed(torch.tensor([23]))
    return unit.in_place, same, unit.slot.buffer.untyped_storage().nbytes()


def test_rows_of_an_embedding_are_read_where_they_lie():
    with tempfile.TemporaryDirectory() as folder:
        assert run_ranks(table, 2, folder) == [(True, True, 4)] * 2
