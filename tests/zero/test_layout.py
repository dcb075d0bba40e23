from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zerokit.comm.mesh import make_mesh
from zerokit.zero.layout import ALIGNMENT, make_layout, round_up
from zerokit.zero.placement import evenly

SIZES = st.lists(st.tuples(st.integers(1, 700), st.integers(0, 2)), min_size=1, max_size=12)
WORLDS = st.integers(1, 9)


def layout_of(sizes, world):
    return make_layout([n for n, _ in sizes], world, [g for _, g in sizes])


def shards_of(layout, world):
    return [layout.held(evenly(rank), rank) for rank in make_mesh(world).ranks]


@given(SIZES, WORLDS)
def test_every_element_is_owned_by_one_rank_and_nothing_overlaps(sizes, world):
    layout = layout_of(sizes, world)
    owner = [None] * layout.total
    for index, (numel, _) in enumerate(sizes):
        found = []
        for shard in shards_of(layout, world):
            part, place = layout.overlap(index, shard)
            found += range(part.start, part.stop)
            assert place in shard
            assert len(place) == len(part)
            for k in range(len(part)):
                assert owner[place.start + k] is None
                owner[place.start + k] = (index, part.start + k)
        assert sorted(found) == list(range(numel))
    for index, (numel, _) in enumerate(sizes):
        offset = layout.offsets[index]
        assert owner[offset : offset + numel] == [(index, k) for k in range(numel)]


@given(SIZES, WORLDS)
def test_shards_are_equal_aligned_and_padding_is_small(sizes, world):
    layout = layout_of(sizes, world)
    assert {len(shard) * world for shard in shards_of(layout, world)} == {layout.total}
    assert layout.total % (ALIGNMENT * world) == 0
    assert all(offset % ALIGNMENT == 0 for offset in layout.offsets)
    whole = sum(round_up(n, ALIGNMENT) for n, _ in sizes)
    assert whole <= layout.total < whole + ALIGNMENT * world


@given(SIZES, WORLDS)
def test_spans_tile_the_buffer_by_group(sizes, world):
    layout = layout_of(sizes, world)
    assert [span.start for span in layout.spans] == [0, *(span.stop for span in layout.spans)][:-1]
    assert layout.spans[-1].stop == layout.total
    assert len({span.group for span in layout.spans}) == len(layout.spans)
    for index, (numel, group) in enumerate(sizes):
        span = next(s for s in layout.spans if s.group == group)
        assert span.start <= layout.offsets[index] and layout.offsets[index] + numel <= span.stop


@given(SIZES, st.integers(2, 9))
def test_the_order_does_not_depend_on_the_number_of_ranks(sizes, world):
    assert layout_of(sizes, world).offsets == layout_of(sizes, 1).offsets


@given(SIZES, WORLDS)
def test_padding_is_what_no_parameter_covers(sizes, world):
    layout = layout_of(sizes, world)
    covered = {k for (n, _), start in zip(sizes, layout.offsets, strict=True) for k in range(start, start + n)}
    pads = [k for pad in layout.padding() for k in range(pad.start, pad.stop)]
    assert pads == sorted(set(range(layout.total)) - covered)
