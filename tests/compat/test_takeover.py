"""Optimizers of a script are taken over with their groups and hyperparameters, or refused by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn, optim

import zerokit.compat.deepspeed as deepspeed
from tests.compat.scripts import Net, make, micro_batches, on_all_stages, train
from zerokit.compat.deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from zerokit.compat.deepspeed.ops.lamb import FusedLamb
from zerokit.compat.deepspeed.ops.lion import FusedLion
from zerokit.config.errors import ConfigError
from zerokit.train.takeover import choices

CLASSES = {
    "Adam": lambda p: optim.Adam(p, lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    "Adam amsgrad": lambda p: optim.Adam(p, lr=0.02, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, lr=0.02, weight_decay=0.1),
    "SGD": lambda p: optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.1),
    "SGD plain": lambda p: optim.SGD(p, lr=0.05),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.05, lr_decay=0.1, initial_accumulator_value=0.5, weight_decay=0.1),
    "NAdam": lambda p: optim.NAdam(p, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adamax": lambda p: optim.Adamax(p, lr=0.01),
    "RAdam": lambda p: optim.RAdam(p, lr=0.01),
    "Rprop": lambda p: optim.Rprop(p, lr=0.01),
}


def plain(make_optimizer, world: int, steps: int = 3) -> dict[str, torch.Tensor]:
    """What the optimizer itself does on the samples of all ranks."""
    torch.manual_seed(0)
    model = Net()
    optimizer = make_optimizer(model.parameters())
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.cat([torch.randn(2, 12, generator=generator) for _ in range(2 * world)])
        (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.named_parameters())


def error_of(engine, expected: dict[str, torch.Tensor]) -> float:
    return max((value - expected[name]).abs().max().item() for name, value in engine.engine.whole_weights())


def taken_over(stage: int, kind: str) -> float:
    engine, optimizer, *_ = make(stage, CLASSES[kind])
    train(engine, 3)
    assert type(optimizer.client).__name__ == kind.partition(" ")[0]
    return error_of(engine, plain(CLASSES[kind], engine.world_size))


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_of_torch_does_what_it_does_alone(kind):
    # mean gradients of parts of a batch differ from those of the whole by rounding; signs and roots magnify that
    assert max(on_all_stages(taken_over, 2, kind)) < 2e-5


def two_groups(parameters) -> optim.Optimizer:
    named = list(parameters)
    return optim.AdamW(
        [
            {"params": named[:3], "lr": 0.05, "betas": (0.5, 0.9), "weight_decay": 0.3},
            {"params": named[3:], "weight_decay": 0.0},
        ],
        lr=0.01,
    )


def grouped(stage: int) -> tuple[float, float]:
    engine, optimizer, *_ = make(stage, two_groups)
    train(engine, 3)
    assert engine.get_lr() == [0.05, 0.01] and engine.get_mom() == [(0.5, 0.9), (0.9, 0.999)]
    alone = error_of(engine, plain(two_groups, engine.world_size))
    optimizer.param_groups[1]["lr"] = 0.0
    before = engine.engine.full_state_dict()
    train(engine, 1)
    moved = [name for name, value in engine.engine.full_state_dict().items() if not torch.equal(value, before[name])]
    return alone, len(moved)


@pytest.mark.parametrize("world", [1, 2])
def test_groups_keep_their_hyperparameters_and_learning_rates(world):
    for alone, moved in on_all_stages(grouped, world):
        assert alone < 2e-5 and moved == 3


def one_cycle(stage: int) -> float:
    """torch's scheduler, made for the script's optimizer before initialize, moves rate and momentum."""

    def run(model, optimizer, steps, step) -> None:
        scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=10)
        for _ in range(steps):
            step()
            scheduler.step()

    torch.manual_seed(0)
    model = Net()
    client = optim.Adam(model.parameters(), lr=0.01)
    scheduler = optim.lr_scheduler.OneCycleLR(client, max_lr=0.05, total_steps=10)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=client, lr_scheduler=scheduler,
        config={"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2, "gradient_clipping": 0,
                "zero_optimization": {"stage": stage}},
    )  # fmt: skip
    train(engine, 4)
    rates = (engine.get_lr(), engine.get_mom())
    torch.manual_seed(0)
    alone = Net()
    optimizer = optim.Adam(alone.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(3)

    def step() -> None:
        x = torch.cat([torch.randn(2, 12, generator=generator) for _ in range(2 * engine.world_size)])
        (alone(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    run(alone, optimizer, 4, step)
    assert rates == ([optimizer.param_groups[0]["lr"]], [optimizer.param_groups[0]["betas"]])
    return error_of(engine, dict(alone.named_parameters()))


def test_a_scheduler_of_torch_moves_rate_and_momentum():
    assert max(on_all_stages(one_cycle, 2)) < 2e-5


def test_schedulers_may_be_made_by_a_callable_or_for_the_returned_optimizer():
    engine, _, _, scheduler = make(2, CLASSES["AdamW"], lr_scheduler=lambda o: optim.lr_scheduler.StepLR(o, 1, 0.5))
    train(engine, 2)
    assert engine.get_lr() == [0.02 * 0.5**2] and engine.lr_scheduler is scheduler
    engine, optimizer, *_ = make(2)
    own = optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    train(engine, 1)
    own.step()
    assert engine.get_lr() == [0.001]


def frozen_rest(stage: int) -> list:
    torch.manual_seed(0)
    model = Net()
    client = optim.SGD(model.head.parameters(), lr=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine, *_ = make(stage, lambda _: client, model=model)
    train(engine, 1)
    return [n for n, v in engine.engine.whole_weights() if not torch.equal(v, before[n])]


def test_parameters_in_no_group_stay_as_they_are():
    assert on_all_stages(frozen_rest, 2) == [["head.bias", "head.weight"]] * 8


def test_model_parameters_are_groups_of_the_jsons_optimizer():
    torch.manual_seed(0)
    model = Net()
    groups = [{"params": model.blocks.parameters(), "lr": 0.5}, {"params": [model.head.weight], "weight_decay": 0.2}]
    engine, optimizer, *_ = make(2, model=model, model_parameters=groups)
    assert engine.get_lr() == [0.5, 0.01]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0, 0.2]
    assert [g.weight_decay for g in optimizer._division.groups.groups] == [0.0, 0.2]


def test_hyperparameters_that_must_stay_are_watched():
    engine, optimizer, *_ = make(2, CLASSES["AdamW"])
    optimizer.param_groups[0]["eps"] = 0.5
    with pytest.raises(ConfigError, match=r"param_groups\[0\]\['eps'\] went from 1e-08 to 0.5"):
        train(engine, 1)


class Mine(optim.Optimizer):
    """An optimizer that only its author knows."""


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (lambda p: optim.LBFGS(p), "torch.optim.LBFGS cannot work on shards: it evaluates the loss several times"),
        (lambda p: optim.SparseAdam(p), "torch.optim.SparseAdam cannot work on shards: .*use torch.optim.Adam"),
        (lambda p: optim.Adafactor(p), "torch.optim.Adafactor cannot work on shards: .*Adafactor"),
        (lambda p: optim.Adam(p, maximize=True), "torch.optim.Adam: maximize=True is not there; give backward"),
        (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5), "torch.optim.SGD: dampening=0.5 is not there"),
        (lambda p: Mine(p, {}), "Mine: nothing says whether it can work on shards. Use a class of torch.optim"),
    ],
)
def test_what_cannot_work_on_shards_is_refused_by_name(optimizer, message):
    with pytest.raises(ConfigError, match=message):
        make(1, optimizer)


def test_steps_taken_and_foreign_parameters_are_refused():
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 12)).sum().backward()
    optimizer.step()
    with pytest.raises(ConfigError, match="SGD has taken steps already"):
        make(1, lambda _: optimizer, model=model)
    with pytest.raises(ConfigError, match="parameters that are not the model's"):
        make(1, lambda _: optim.SGD(Net().parameters(), lr=0.1))
    shared = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="more than one parameter group|in two groups"):
        optim.SGD([{"params": [shared]}, {"params": [shared]}], lr=0.1)


def test_deepspeeds_own_classes_are_descriptions():
    parameters = list(Net().parameters())
    assert [c.name for c in choices(FusedAdam(parameters))] == ["adamw"]
    assert [c.name for c in choices(DeepSpeedCPUAdam(parameters, adamw_mode=False))] == ["adam"]
    (lamb,) = choices(FusedLamb(parameters, lr=0.5, betas=(0.7, 0.8), max_coeff=5.0))
    assert (lamb.name, lamb.options.lr, lamb.options.beta2, lamb.options.max_ratio) == ("lamb", 0.5, 0.8, 5.0)
    lion = FusedLion(parameters, lr=0.5)
    assert choices(lion)[0].options.lr == 0.5
    with pytest.raises(RuntimeError, match="hand it to initialize"):
        lion.step()


@pytest.mark.parametrize("kind", ["Lamb", "Lion", "Muon", "Adagrad", "SGD", "NAdam", "Adafactor", "Adam8bit"])
def test_optimizers_of_the_json_train(kind):
    def losses(stage: int) -> list[float]:
        engine, *_ = make(stage, json_optimizer={"type": kind, "params": {"lr": 0.02}})
        return train(engine, 15)

    for found in on_all_stages(losses, 2):
        assert sum(found[-6:]) < sum(found[:6])


def test_the_loop_of_accelerate():
    """What accelerate's engine and optimizer wrappers do, with a last step of fewer micro-batches."""

    def run(stage: int) -> list:
        engine, optimizer, *_ = make(stage, CLASSES["AdamW"], gradient_accumulation_steps=2)
        found = []
        data = list(micro_batches(engine, 3, count=1))
        for index, (x, y) in enumerate(data):
            sync = index % 2 == 1 or index == len(data) - 1
            engine.set_gradient_accumulation_boundary(is_boundary=sync)
            engine.backward((engine(x) - y).square().mean())
            if sync:
                engine.step()
                found.append((engine.get_global_grad_norm() > 0, optimizer.overflow, engine.global_steps))
        return found

    assert on_all_stages(run, 2) == [[(True, False, 1), (True, False, 2)]] * 8
