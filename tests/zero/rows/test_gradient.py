"""Gradients of embeddings by rows, against whole tables: what every owner writes, to the bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.zero.test_layout import shards_of
from zerokit.zero.buffer import Buffer
from zerokit.zero.layout import make_layout
from zerokit.zero.rows.gradient import RowPlan, RowRoute
from zerokit.zero.unit import Unit


class SharedMemory:
    """The peer memory of all ranks in one process, seen by one of them."""

    def __init__(self, buffers: list[Tensor], rank: int):
        self.peers, self.local, self.rank = buffers, buffers[rank], rank


def make_unit(rows: int, dim: int, world: int, device: str, dtype: torch.dtype) -> Unit:
    module = nn.Embedding(rows, dim, device="meta")
    layout = make_layout([rows * dim], world)
    parameter = nn.Parameter(torch.zeros(1, device=device, dtype=dtype).expand(rows, dim))
    return Unit("table", ["table.weight"], [parameter], layout, True, module, "outer")


def exchange(uses: list[list[tuple[Tensor, Tensor]]], rows: int, dim: int, held: Tensor, whole: Tensor | None = None):
    """The whole gradient that the ranks have together, after rank r left `uses[r]`, onto `held` if it is not empty.

    whole: a dense gradient of rank 0, besides.
    """
    world, device = len(uses), held.device
    dtype = uses[0][0][1].dtype
    units = [make_unit(rows, dim, world, str(device), dtype) for _ in range(world)]
    shards = shards_of(units[0].layout, world)
    size = RowRoute.elements(units[0], shards, dtype.itemsize)
    buffers = [torch.full((size * world,), 7.0, dtype=dtype, device=device) for _ in range(world)]
    routes = [RowRoute(unit, SharedMemory(buffers, rank), shards) for rank, unit in enumerate(units)]
    accumulate = len(held) > 0
    sums = []
    for rank, (unit, route) in enumerate(zip(units, routes, strict=True)):
        values = torch.zeros(len(shards[rank]), dtype=held.dtype, device=device)
        unit.gradient = Buffer(values, shards[rank])
        if accumulate:
            part = held[shards[rank].start : min(shards[rank].stop, rows * dim)]
            values[: len(part)] = part
        unit.rows += uses[rank]
        sums.append(route.collect([whole if rank == 0 else None]))
        assert unit.rows == []
        route.send(sums[rank], [sender_place(rank, owner, world) * size for owner in range(world)])
    for rank, route in enumerate(routes):
        route.add(sums[rank], [sender_place(sender, rank, world) * size for sender in range(world)], accumulate)
    return torch.cat([unit.gradient.values for unit in units])[: rows * dim].view(rows, dim)


def sender_place(sender: int, owner: int, world: int) -> int:
    return (sender - owner - 1) % world


def expected(uses, rows: int, dim: int, held: Tensor, world: int) -> Tensor:
    """Whole tables, summed as each owner does: itself first, then the others in order, in fp32."""
    tables = []
    for rank in range(world):
        tokens = torch.cat([tokens for tokens, _ in uses[rank]])
        upstream = torch.cat([gradients for _, gradients in uses[rank]])
        tables.append(torch.ops.aten.embedding_dense_backward(upstream, tokens, rows, -1, False))
    shard = make_layout([rows * dim], world).total // world
    owner = torch.arange(rows * dim) // shard
    sums = held.float() if len(held) else torch.zeros(rows * dim)
    for rank in range(world):
        mine = sums[owner == rank]
        for source in (rank, *(r for r in range(world) if r != rank)):
            mine = mine + tables[source].view(-1)[owner == rank].float()
        sums[owner == rank] = mine
    return sums.to(held.dtype).view(rows, dim)


def draw_case(rows: int, dim: int, counts: list[int], seed: int, dtype: torch.dtype, device: str = "cpu"):
    generator = torch.Generator().manual_seed(seed)
    uses = []
    for count in counts:
        tokens = torch.randint(0, rows, (count,), generator=generator)
        gradients = torch.randn(count, dim, generator=generator).to(dtype)
        uses.append([(tokens.to(device), gradients.to(device))])
    return uses


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 60),
    dim=st.integers(1, 40),
    counts=st.lists(st.integers(0, 80), min_size=2, max_size=4),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    stored=st.sampled_from([torch.float32, torch.bfloat16]),
    accumulate=st.booleans(),
)
def test_rows_make_the_gradient_of_the_table(rows, dim, counts, seed, dtype, stored, accumulate):
    uses = draw_case(rows, dim, counts, seed, dtype)
    held = torch.randn(rows * dim if accumulate else 0, generator=torch.Generator().manual_seed(seed)).to(stored)
    assert torch.equal(exchange(uses, rows, dim, held), expected(uses, rows, dim, held, len(counts)))


def test_what_several_uses_leave_is_summed():
    first, second = (draw_case(23, 12, [5, 9], seed, torch.float32) for seed in (0, 1))
    both = [a + b for a, b in zip(first, second, strict=True)]
    held = torch.zeros(0)
    assert torch.equal(exchange(both, 23, 12, held), expected(both, 23, 12, held, 2))


def test_a_whole_gradient_beside_the_rows_is_added():
    uses = draw_case(23, 12, [5, 9], 0, torch.float32)
    whole = torch.randn(23, 12)
    found = exchange(uses, 23, 12, torch.zeros(0), whole)
    torch.testing.assert_close(found, expected(uses, 23, 12, torch.zeros(0), 2) + whole)


@pytest.mark.parametrize("world", [2, 3, 8, 64])
def test_every_row_belongs_to_those_who_hold_a_part_of_it(world):
    unit = make_unit(50, 36, world, "cpu", torch.float32)
    shards = shards_of(unit.layout, world)
    plan = RowPlan(unit, shards)
    for rank, shard in enumerate(shards):
        touched = {element // 36 for element in range(shard.start, min(shard.stop, 50 * 36))}
        assert touched == set(range(plan.first[rank], plan.first[rank] + plan.count[rank]))
