from __future__ import annotations

import pytest

from zerokit.zero.placement import STAGES, Collective, Placement, transition

R, P, S = Placement.REPLICATE, Placement.PARTIAL, Placement.SHARD


def test_the_collective_follows_from_source_and_destination():
    assert transition(S, R) is Collective.ALL_GATHER
    assert transition(P, S) is Collective.REDUCE_SCATTER
    assert transition(P, R) is Collective.ALL_REDUCE
    assert transition(R, S) is Collective.VIEW
    assert all(transition(p, p) is Collective.NOTHING for p in Placement)


@pytest.mark.parametrize(("source", "destination"), [(S, P), (R, P)])
def test_impossible_transitions_are_named(source, destination):
    with pytest.raises(ValueError, match=f"{source.value} to {destination.value}"):
        transition(source, destination)


def test_stages_partition_one_more_kind_each():
    partitioned = [
        [k for k in ("optimizer", "gradient", "parameter") if getattr(stage, k) is S] for stage in STAGES.values()
    ]
    assert partitioned == [[], ["optimizer"], ["optimizer", "gradient"], ["optimizer", "gradient", "parameter"]]


def test_one_rank_partitions_nothing():
    assert {stage.on(1) for stage in STAGES.values()} == {STAGES[0]}
    assert all(stage.on(2) is stage for stage in STAGES.values())
