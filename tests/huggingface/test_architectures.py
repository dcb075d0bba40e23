"""Architectures of Hugging Face train as in PyTorch alone, whatever the stage, the precision and the checkpointing."""

from __future__ import annotations

from functools import partial
from itertools import product

import pytest

pytest.importorskip("transformers")

from tests.huggingface.models import ARCHITECTURES, build
from tests.huggingface.training import TOLERANCE, Combination, difference, make_engine, masters, references, train
from tests.ranks import run_ranks

STAGES, PRECISIONS, CHECKPOINTING = (0, 2, 3), ("fp32", "bf16"), ("none", "full", "selective")
EVERY = [Combination(*how) for how in product(STAGES, PRECISIONS, CHECKPOINTING)]
SHARDED, OTHERS = [how for how in EVERY if how.stage == 3], [how for how in EVERY if how.stage != 3]


def chosen(name: str) -> list[Combination]:
    """Two at stage 3 and one at another; with all names, every combination."""
    place = list(ARCHITECTURES).index(name)
    return [*(SHARDED[(2 * place + turn) % len(SHARDED)] for turn in (0, 1)), OTHERS[place % len(OTHERS)]]


def differences(name: str, combinations: list[Combination]) -> dict[Combination, float]:
    """From plain training, of an architecture trained in each combination on this rank."""
    make, batch = partial(build, name), ARCHITECTURES[name].batch
    start, wanted = masters(make()), references(make, batch, sorted({how.precision for how in combinations}))
    return {
        how: difference(train(make_engine(make(), how), batch), wanted[how.precision], start) for how in combinations
    }


def assert_small(found: dict[Combination, float]) -> None:
    assert {how: value for how, value in found.items() if not value < TOLERANCE[how.precision]} == {}


def test_every_combination_is_chosen():
    assert {how for name in ARCHITECTURES for how in chosen(name)} == set(EVERY)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trains_as_pytorch_does(name):
    assert_small(run_ranks(differences, 2, name, chosen(name))[0])


@pytest.mark.chaos
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_combination_trains_as_pytorch_does(name):
    assert_small(run_ranks(differences, 2, name, EVERY)[0])
