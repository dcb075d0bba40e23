from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerokit.comm.mesh import Mesh, make_mesh
from zerokit.zero.layout import Span, make_layout
from zerokit.zero.placement import STAGES, STATES, Collective, Home, Placement, evenly, own_terms, path, whole

R, P, S = Placement.REPLICATE, Placement.PARTIAL, Placement.SHARD
GATHER, SCATTER, SUM = Collective.ALL_GATHER, Collective.REDUCE_SCATTER, Collective.ALL_REDUCE
MESHES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple).map(Mesh)


def moves(source: Home, destination: Home) -> list[tuple[Collective, int]]:
    return [(move.collective, move.axis) for move in path(source, destination)]


def test_the_collective_follows_from_source_and_destination():
    assert moves(Home((S,)), Home((R,))) == [(GATHER, 0)]
    assert moves(Home((P,)), Home((S,))) == [(SCATTER, 0)]
    assert moves(Home((P,)), Home((R,))) == [(SUM, 0)]
    assert moves(Home((R,)), Home((S,))) == []
    assert all(moves(Home((p,)), Home((p,))) == [] for p in Placement)


def test_what_travels_along_an_outer_axis_is_the_smallest():
    assert moves(Home((S, S)), Home((R, R))) == [(GATHER, 0), (GATHER, 1)]
    assert moves(Home((P, P)), Home((S, S))) == [(SCATTER, 1), (SCATTER, 0)]
    assert moves(Home((P, P)), Home((R, S))) == [(SCATTER, 1), (SUM, 0)]


@pytest.mark.parametrize(("source", "destination"), [((S,), (P,)), ((R,), (P,)), ((S, S), (S, R)), ((S, P), (S, S))])
def test_impossible_paths_are_named(source, destination):
    with pytest.raises(ValueError, match=f"from {Home(source)} to {Home(destination)}"):
        path(Home(source), Home(destination))


def homes_of(mesh: Mesh) -> st.SearchStrategy[Home]:
    return st.tuples(*[st.sampled_from((R, S))] * len(mesh.sizes)).map(Home)


@given(st.data())
def test_what_ranks_hold_covers_everything_as_often_as_it_is_replicated(data):
    mesh = data.draw(MESHES)
    home = data.draw(homes_of(mesh)).on(mesh)
    layout = make_layout([100, 7], mesh.world)
    count = home.replica(mesh)[1]
    spans = [layout.held(home, mesh.at(rank)) for rank in range(mesh.world)]
    owners = [home.replica(mesh.at(rank))[0] for rank in range(mesh.world)]
    assert sum(map(len, spans)) == count * layout.total
    for number in range(count):
        own = sorted(span.start for span, owner in zip(spans, owners, strict=True) if owner == number)
        assert own == [place * len(spans[0]) for place in range(layout.total // len(spans[0]))]


@given(st.data())
def test_a_path_joins_and_cuts_what_neighbours_hold(data):
    """Every gather makes one stretch of what a row holds, in its order; every scatter cuts it so."""
    mesh = data.draw(MESHES)
    gathered = data.draw(homes_of(mesh)).on(mesh)
    layout = make_layout([300, 41], mesh.world)
    for move in (*path(gathered, whole(mesh)), *path(own_terms(mesh), evenly(mesh))):
        short, long = (move.source, move.to) if move.collective is GATHER else (move.to, move.source)
        for rank in range(mesh.world):
            row = mesh.at(rank).row(move.axis)
            stretch = layout.held(long, mesh.at(rank))
            parts = [layout.held(short, mesh.at(member)) for member in row]
            assert parts == [stretch.cut(len(row), place) for place in range(len(row))]


@given(st.data())
def test_what_is_divided_evenly_lies_in_what_a_rank_holds_anywhere(data):
    mesh = data.draw(MESHES)
    mesh = mesh.at(data.draw(st.integers(0, mesh.world - 1)))
    stage, states = data.draw(st.sampled_from([0, 1, 2, 3])), data.draw(st.sampled_from(list(STATES)))
    homes = STAGES[stage].on(mesh, states if stage else "group")
    layout = make_layout([64], mesh.world)
    for home in (homes.parameter, homes.gradient, homes.optimizer):
        assert layout.held(evenly(mesh), mesh) in layout.held(home, mesh)


def test_stages_partition_one_more_kind_each():
    kinds = ("optimizer", "gradient", "parameter")
    partitioned = [[kind for kind in kinds if getattr(stage, kind).divided] for stage in STAGES.values()]
    assert partitioned == [[], ["optimizer"], ["optimizer", "gradient"], ["optimizer", "gradient", "parameter"]]


def test_one_rank_partitions_and_sums_nothing():
    alone = {stage.on(make_mesh(1)) for stage in STAGES.values()}
    assert len(alone) == 1
    (stage,) = alone
    assert stage.parameter == stage.gradient == stage.optimizer == whole(make_mesh(1)) == own_terms(make_mesh(1))
    assert [stage.on(make_mesh(2)) for stage in STAGES.values()] == list(STAGES.values())


def test_groups_of_ranks_are_rows_of_the_table():
    mesh = make_mesh(8, shard_size=4)
    group, everybody = (STAGES[3].on(mesh, states) for states in STATES)
    assert group.parameter == everybody.parameter == Home((R, S))
    assert group.gradient == everybody.gradient == Home((P, S))
    assert (group.optimizer, everybody.optimizer) == (Home((R, S)), Home((S, S)))
    assert STAGES[1].on(mesh, "all").optimizer == Home((S, S))
    assert STAGES[3].on(make_mesh(4, shard_size=4)).optimizer == Home((R, S))
    assert STAGES[3].on(make_mesh(4, shard_size=1)) == STAGES[0].on(make_mesh(4, shard_size=1))


def test_neighbours_lie_along_the_innermost_axis():
    mesh = make_mesh(6, 4, shard_size=3)
    assert (mesh.row(0), mesh.row(1)) == ([1, 4], [3, 4, 5])
    assert mesh.rows(0) == [[0, 3], [1, 4], [2, 5]]
    with pytest.raises(ValueError, match="6 ranks cannot be divided into groups of 4"):
        make_mesh(6, shard_size=4)


def test_the_inner_axis_cuts_first():
    mesh = make_mesh(4, shard_size=2)
    layout = make_layout([256], 4)
    spans = [layout.held(evenly(mesh), mesh.at(rank)) for rank in range(4)]
    assert spans == [Span(0, 64), Span(128, 192), Span(64, 128), Span(192, 256)]
