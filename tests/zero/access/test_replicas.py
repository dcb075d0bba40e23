"""Row 12 of the fault matrix: one element of one replica is another, and rank and parameter are named."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ranks import run_ranks
from tests.zero.training import Case, make_engine, train
from zerokit.zero.access.replicas import Replicas, checksum, describe
from zerokit.zero.engine import Numerics

SPLIT = {"numerics": Numerics(torch.bfloat16, "split")}
FLIPS = {
    0: ("blocks.1.up.weight", "head.weight (optimizer state exp_avg)", "norm.bias (remainder of the master weight)"),
    1: ("blocks.1.up.weight", "head.weight"),
    2: ("blocks.1.up.weight", "head.weight"),
}


def flipped(stage: int, name: str | None, rank: int) -> tuple[str | None, str | None]:
    """What is found before and after one bit of one element is flipped on one rank."""
    engine = make_engine(Case(), stage, **SPLIT)
    train(engine, Case(steps=2))
    replicas = Replicas(engine)
    before = replicas.difference()
    if name is not None and engine.comm.rank == rank:
        tensor = replicas._tensors[name].view(-1)
        tensor.view({2: torch.int16, 4: torch.int32}[tensor.element_size()])[-1] ^= 1
    return before, replicas.difference()


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage, names in FLIPS.items() for name in names])
def test_a_flipped_bit_is_found_and_named(stage, name):
    results = run_ranks(flipped, 3, stage, name, 1)
    assert results == [(None, f"rank 1 differs from the other ranks: {name}")] * 3


def test_of_two_ranks_none_is_called_wrong():
    assert run_ranks(flipped, 2, 0, "norm.weight", 1)[0][1] == "ranks 0, 1 differ from each other: norm.weight"


def something_replicated(stage: int, optimizer: str) -> list[str]:
    return list(Replicas(make_engine(Case(optimizer=optimizer), stage))._tensors)


def test_at_stage_3_only_what_an_optimizer_keeps_whole_is_replicated():
    assert run_ranks(something_replicated, 2, 3, "adamw")[0] == []
    kept = run_ranks(something_replicated, 2, 3, "adafactor")
    assert kept[0] == kept[1] and kept[0] and all("optimizer state" in name for name in kept[0])


def test_one_rank_has_nothing_to_compare_with():
    assert not Replicas(make_engine(Case(), 0))


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=50), st.data())
def test_a_change_of_one_element_changes_the_checksum(values, data):
    before = torch.tensor(values, dtype=torch.int32)
    after = before.clone()
    place = data.draw(st.integers(0, len(values) - 1))
    after[place] ^= 1 << data.draw(st.integers(0, 30))
    assert checksum(before.view(torch.float32)) != checksum(after.view(torch.float32))


def test_exchanged_elements_change_the_checksum():
    assert checksum(torch.tensor([1.0, 2.0])) != checksum(torch.tensor([2.0, 1.0]))


def test_the_majority_is_right():
    def told(names: str, table: list[list[int]]) -> str | None:
        return describe({name: [list(range(len(table)))] for name in names}, table)

    assert told("ab", [[1, 5], [1, 5], [1, 5]]) is None
    assert told("ab", [[1, 5], [1, 6], [2, 5]]) == (
        "rank 2 differs from the other ranks: a; rank 1 differs from the other ranks: b"
    )
    assert told("a", [[1], [1], [2], [3]]) == "ranks 2, 3 differ from the others: a"
    assert told("abcdef", [[0] * 6, [1] * 6, [0] * 6]).endswith("a, b, c, d and 2 more")
