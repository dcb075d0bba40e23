"""Which samples a rank gets: those of a step are the same for every number of ranks, each once."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from zerokit.config.errors import ConfigError
from zerokit.train.loader import Loader

CPU = torch.device("cpu")
WORLDS = [1, 2, 4]


class Indices:
    """Samples that are their own global indices; of the held-out ones there are `held_out`."""

    def __init__(self, held_out: int = 0):
        self.held_out = held_out

    def batch(self, start: int, count: int):
        indices = torch.arange(start, start + count)
        return indices, -indices

    def validation(self, start: int, count: int):
        return None if start + count > self.held_out else self.batch(start, count)


def loaders(world: int, micro: int = 2, source=None) -> list[Loader]:
    return [Loader(source or Indices(), micro, rank, world, CPU) for rank in range(world)]


def taken(loader: Loader, first: int, count: int) -> list[list[int]]:
    return [inputs.tolist() for inputs, _ in islice(loader.from_micro_batch(first), count)]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("micro", [1, 2])
def test_a_step_holds_the_same_samples_for_every_number_of_ranks(world, micro):
    accumulation = 8 // (micro * world)
    ranks = [taken(loader, 0, 5 * accumulation) for loader in loaders(world, micro)]
    for step in range(5):
        of_step = [rank[step * accumulation : (step + 1) * accumulation] for rank in ranks]
        assert all(len(batch) == micro for rank in of_step for batch in rank)
        assert sorted(index for rank in of_step for batch in rank for index in batch) == [
            *range(8 * step, 8 * step + 8)
        ]


def test_ranks_take_turns_within_a_micro_batch():
    assert [taken(loader, 0, 2) for loader in loaders(2)] == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_targets_belong_to_the_inputs():
    inputs, targets = next(loaders(2)[1].from_micro_batch(3))
    assert torch.equal(targets, -inputs)


@pytest.mark.parametrize("world", WORLDS)
def test_a_later_start_goes_on_where_an_earlier_one_would_be(world):
    for loader in loaders(world):
        assert taken(loader, 3, 4) == taken(loader, 0, 7)[3:]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("held_out", "samples"), [(100, 24), (100, 13), (13, 64), (16, 64), (3, 8), (1, 8), (100, 1)])
def test_held_out_samples_count_once_and_every_rank_has_as_many_batches(world, held_out, samples):
    ranks = [
        [(inputs.tolist(), counts) for (inputs, _), counts in loader.held_out(samples)]
        for loader in loaders(world, 2, Indices(held_out))
    ]
    wanted = min(samples, held_out)
    assert [len(rank) for rank in ranks] == [-(-wanted // (2 * world))] * world
    assert sorted(i for rank in ranks for batch, counts in rank if counts for i in batch) == [*range(wanted)]
    assert all(0 < len(batch) <= 2 and max(batch) < wanted for rank in ranks for batch, _ in rank)


@pytest.mark.parametrize(("held_out", "samples"), [(0, 8), (8, 0)])
def test_without_held_out_samples_there_are_no_batches(held_out, samples):
    assert [list(loader.held_out(samples)) for loader in loaders(2, 2, Indices(held_out))] == [[], []]


def test_the_last_held_out_samples_are_divided_evenly():
    last = [list(loader.held_out(13))[-1] for loader in loaders(2, 4, Indices(13))]
    assert [batch[0].tolist() for batch, _ in last] == [[8, 9], [10, 11, 12]]


class Pinned:
    """Stands for a tensor on its way to a GPU; notes what is done with it."""

    def __init__(self, start: int, notes: list):
        self.start, self.notes = start, notes

    def pin_memory(self):
        self.notes.append(("pin", self.start))
        return self

    def to(self, device, non_blocking):
        assert ("pin", self.start) in self.notes and non_blocking and device.type == "cuda"
        return self.start


def test_a_gpu_gets_the_same_samples_pinned(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)

    class Source:
        def batch(self, start, count):
            assert count == 2
            return Pinned(start, notes), Pinned(start, notes)

    notes = []
    loader = Loader(Source(), 2, 1, 4, torch.device("cuda"))
    assert list(islice(loader.from_micro_batch(1), 3)) == [(10, 10), (18, 18), (26, 26)]


def test_an_error_of_the_source_reaches_the_training_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)

    class Broken:
        def batch(self, start, count):
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        next(Loader(Broken(), 2, 0, 1, torch.device("cuda")).from_micro_batch(0))


# -- mappings --------------------------------------------------------------------------------------------------------


class Mappings(Indices):
    def batch(self, start: int, count: int):
        indices, negative = super().batch(start, count)
        return {"input_ids": indices, "labels": negative, "attention_mask": indices > 2}


@pytest.mark.parametrize("held_out", [False, True])
def test_a_mapping_is_divided_into_what_the_model_gets_and_its_labels(held_out):
    loader = loaders(1, 4, Mappings(8))[0]
    inputs, labels = next(loader.held_out(8))[0] if held_out else next(loader.from_micro_batch(0))
    assert sorted(inputs) == ["attention_mask", "input_ids"] and torch.equal(labels, -inputs["input_ids"])


def test_a_mapping_without_labels_is_refused():
    class Unlabelled(Indices):
        def batch(self, start: int, count: int):
            return {"input_ids": torch.zeros(count)}

    with pytest.raises(ConfigError, match="no 'labels'.* it has input_ids"):
        next(loaders(1, 2, Unlabelled())[0].from_micro_batch(0))


def test_a_gpu_gets_mappings_pinned(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    notes = []

    class Source:
        def batch(self, start, count):
            return {"input_ids": Pinned(start, notes), "labels": Pinned(start, notes)}

    assert next(Loader(Source(), 2, 1, 4, torch.device("cuda")).from_micro_batch(1)) == ({"input_ids": 10}, 10)
