from __future__ import annotations

import os

import pytest
import torch
from torch import nn

import zerokit
from tests.ranks import run_ranks
from zerokit.comm import Communicator
from zerokit.config.errors import ConfigError


def library_loop(stage: int) -> list[float]:
    torch.manual_seed(0)
    engine = zerokit.initialize(
        nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1)),
        {"zero": {"stage": stage}, "optimizer": {"name": "adamw", "lr": 0.03}, "batch": {"accumulation": 2}},
    )
    losses = []
    for _ in range(40):
        for _ in range(2):
            x = torch.randn(8, 10)
            loss = (engine(x) - x.mean(1, keepdim=True)).square().mean()
            engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("stage", [0, 3])
def test_a_loop_of_ones_own_learns(stage):
    losses = run_ranks(library_loop, 2, stage)[0]
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])


def test_groups_of_the_trainer_are_refused():
    with pytest.raises(ConfigError, match="scheduler"):
        zerokit.initialize(nn.Linear(2, 1), {"scheduler": "cosine"})


@pytest.mark.parametrize(
    ("batch", "accumulation"),
    [({}, 1), ({"accumulation": 3}, 3), ({"global": 8, "micro": 2}, 4), ({"micro": 2}, 1), ({"global": 8}, 1)],
)
def test_sizes_of_the_batch_fix_the_accumulation(batch, accumulation):
    assert zerokit.initialize(nn.Linear(2, 1), {"batch": batch}).accumulation == accumulation


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="cannot be divided"):
        zerokit.initialize(nn.Linear(2, 1), {"batch": {"global": 3, "accumulation": 2}})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"zero": 3}, 'zero: expected its options, such as {"stage": 3}, got 3.'),
        ({"zero": "stage3"}, 'zero: expected its options, such as {"stage": 3}, got stage3.'),
        ({"train": None}, 'train: expected its options, such as {"clip_norm": 1.0}, got null.'),
        ({"optimizer": ["adamw"]}, 'optimizer: expected its options, such as {"name": "adamw"}, got [adamw].'),
        ([], 'config: expected groups such as {"zero": {"stage": 3}}, got [].'),
        ({"zero": {"stage": "3"}}, "got the text '3'. Write it without quotes."),
    ],
)
def test_values_of_a_wrong_type_are_named(config, message):
    with pytest.raises(ConfigError) as caught:
        zerokit.initialize(nn.Linear(2, 1), config)
    assert message in str(caught.value)


def test_wrong_options_are_named():
    with pytest.raises(ConfigError, match="lrr"):
        zerokit.initialize(nn.Linear(2, 1), {"optimizer": {"name": "adamw", "lrr": 1}})


def loop_in_groups(shard_size: object) -> list[float]:
    engine = zerokit.initialize(
        nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)),
        {"zero": {"stage": 3, "min_unit": 0, "shard_size": shard_size, "states": "all"}, "launch": {"device": "cpu"}},
    )
    torch.manual_seed(engine.comm.rank)
    for _ in range(3):
        engine.backward(engine(torch.randn(4, 8)).square().mean())
        engine.step()
    return [float(value.sum()) for _, value in engine.whole_weights()] + list(engine.comm.mesh.sizes)


def test_groups_of_processes_train_as_all_do(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    (*wanted, world), *_ = run_ranks(loop_in_groups, 4, "all")
    assert world == 4
    for asked in (2, "host"):
        (*found, hosts, size), *_ = run_ranks(loop_in_groups, 4, asked)
        assert (hosts, size) == (2, 2)
        assert found == pytest.approx(wanted, abs=1e-5)


def refused_groups() -> None:
    with pytest.raises(ValueError, match="zero.shard_size=3: 4 ranks cannot be divided into groups of 3"):
        loop_in_groups(3)
    os.environ["LOCAL_WORLD_SIZE"] = "1" if Communicator(torch.device("cpu")).rank else "2"
    with pytest.raises(ValueError, match="the hosts have different numbers of processes"):
        loop_in_groups("host")


def test_processes_that_cannot_be_grouped_are_told():
    run_ranks(refused_groups, 4)
