"""Optimizer states: any format and granularity, in some groups only, divided without cutting a block."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.zero.models import Language
from zerokit.comm.mesh import make_mesh
from zerokit.optimizer._base import State
from zerokit.zero.model.partition import partition, unit_modules
from zerokit.zero.placement import STAGES
from zerokit.zero.update.states import States, length_along

MATRICES = SimpleNamespace(
    states=(State("codes", "uint8", initial=7.0), State("scale", per=64), State("row", along="rows")), kept={}
)
OTHERS = SimpleNamespace(
    states=(State("square"), State("row", along="rows"), State("count", along="all")), kept={"sum": 2.0}
)
CPU = torch.device("cpu")


def states_of(world: int, stage: int) -> list[States]:
    """The states of every rank."""
    model = Language()
    units = partition(model, world, unit_modules(model), lambda name, parameter: int(parameter.ndim < 2))
    ranks = make_mesh(world).ranks
    return [States(units, STAGES[stage].on(rank), (MATRICES, OTHERS), rank, CPU) for rank in ranks]


def expected(parameter: torch.Size, state: State) -> int:
    return -(-parameter.numel() // state.per) if state.along is None else length_along(state.along, parameter)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_slices_cover_every_state_once(world, stage):
    ranks = states_of(world, stage)
    shapes = {name: p.shape for name, p in Language().named_parameters()}
    covered: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for states in ranks:
        for part in states.slices():
            covered.setdefault((part.name, part.parameter), []).append((part.start, part.start + len(part.values)))
            assert part.size == expected(shapes[part.parameter], states.declared[part.name])
    names = {(s.name, p) for p, shape in shapes.items() for s in (OTHERS if len(shape) < 2 else MATRICES).states}
    assert set(covered) == names
    for (state, parameter), spans in covered.items():
        size = expected(shapes[parameter], ranks[0].declared[state])
        if stage == 0 or ranks[0].declared[state].along is not None:
            assert spans == [(0, size)] * world, (state, parameter)
            continue
        cursor = 0
        for start, stop in sorted(spans):
            assert start == cursor
            cursor = stop
        assert cursor == size


def test_slices_are_views_of_the_arenas_and_do_not_overlap():
    (states,) = states_of(1, 0)
    assert states.arenas["codes"].unique().tolist() == [7]
    for number, part in enumerate(states.slices()):
        part.values.fill_(number % 200)
    for number, part in enumerate(states.slices()):
        assert part.values.unique().tolist() == [number % 200]
    owners = [s for s in states.slices() if s.name == "row"]
    assert sum(len(s.values) for s in owners) == states.arenas["row"].numel()


def test_a_state_takes_memory_in_its_groups_only():
    (states,) = states_of(1, 0)
    spans = [span for unit in states.units for span in unit.layout.spans]
    matrices, others = (sum(len(span) for span in spans if span.group == group) for group in (0, 1))
    assert states.arenas["codes"].numel() == matrices
    assert states.arenas["scale"].numel() * 64 == matrices
    assert states.arenas["square"].numel() == others
    assert states.kept["sum"].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("world", [2, 3])
def test_the_formula_of_memory_holds_at_every_stage(world):
    for stage in (0, 1, 3):
        for here, there in zip(states_of(world, 1), states_of(world, stage), strict=True):
            assert here.nbytes_at(STAGES[stage].on(here.mesh)) == there.nbytes
