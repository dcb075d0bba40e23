from __future__ import annotations

import torch

from tests.ranks import run_ranks
from zerokit.comm import Communicator


def collectives() -> dict:
    comm = Communicator(torch.device("cpu"))
    rank, world = comm.rank, comm.world
    full = torch.arange(4.0 * world) + rank
    part = full[rank * 4 : rank * 4 + 4]
    comm.reduce_scatter(part, full)  # in place: the shard lies in the buffer
    whole = torch.zeros(4 * world)
    whole[rank * 4 : rank * 4 + 4] = part
    comm.all_gather(whole, whole[rank * 4 : rank * 4 + 4])
    total = torch.tensor([1.0 + rank])
    comm.all_reduce(total)
    source = torch.tensor([float(rank)])
    comm.broadcast(source)
    return {
        "whole": whole.tolist(),
        "total": total.item(),
        "source": source.item(),
        "rows": comm.gather_row([rank, torch.tensor(2.5)]),
        "calls": dict(comm.calls),
        "traffic": dict(comm.traffic),
    }


def test_collectives_and_their_bytes():
    for world in (2, 3):
        results = run_ranks(collectives, world)
        assert all(result == results[0] for result in results)
        found = results[0]
        ranks = sum(range(world))
        assert found["whole"] == [world * i + ranks for i in range(4 * world)]
        assert (found["total"], found["source"]) == (world + ranks, 0.0)
        assert found["rows"] == [[r, 2.5] for r in range(world)]
        assert found["traffic"]["all_gather"] == found["traffic"]["reduce_scatter"] == 16 * world
        assert found["calls"]["all_reduce"] == 1


def test_one_rank_needs_no_process_group():
    comm = Communicator(torch.device("cpu"))
    assert (comm.rank, comm.world) == (0, 1)
    value = torch.tensor([3.0])
    comm.all_reduce(value)
    comm.broadcast(value)
    assert value.item() == 3.0 and comm.gather_row([1.0]) == [[1.0]] and not comm.calls
