"""`zerokit.initialize(model, config, optimizer=...)`: a torch optimizer is taken over, and stays in charge."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from torch import nn, optim

import zerokit
from tests.ranks import run_ranks
from zerokit.config.errors import ConfigError

STAGES = (0, 1, 2, 3)


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def groups(model):
    return [
        {"params": model[0].parameters(), "lr": 0.05, "betas": (0.5, 0.9), "weight_decay": 0.3},
        {"params": [p for layer in list(model)[1:] for p in layer.parameters()], "weight_decay": 0.0},
    ]


OPTIMIZERS = {
    "adamw": lambda model: optim.AdamW(groups(model), lr=0.01),
    "adam": lambda model: optim.Adam(model.parameters(), lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    "sgd": lambda model: optim.SGD(model.parameters(), lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.1),
    "rmsprop": lambda model: optim.RMSprop(model.parameters(), lr=0.01, momentum=0.5),
}
SCHEDULERS = {
    "none": None,
    "cosine": lambda optimizer: optim.lr_scheduler.CosineAnnealingLR(optimizer, 6),
    "one cycle": lambda optimizer: optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=10),
}


def sample(step, rank):
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(10 * step + rank))


def loss_of(model, x):
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def plainly(make, schedule, world, steps=4):
    """The weights that PyTorch alone trains on the samples of all ranks, and the last rate."""
    model = make_model()
    optimizer = make(model)
    scheduler = schedule and schedule(optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        (sum(loss_of(model, sample(step, rank)) for rank in range(world)) / world).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()
    return {name: p.detach() for name, p in model.named_parameters()}, optimizer.param_groups[0]["lr"]


def make_engine(optimizer_of, stage, model=None):
    model = model or make_model()
    optimizer = optimizer_of(model)
    config = {"zero": {"stage": stage, "min_unit": 0}}
    return zerokit.initialize(model, config, optimizer=optimizer), optimizer


def train(engine, scheduler=None, steps=4, first=0):
    for step in range(first, first + steps):
        engine.backward(loss_of(engine, sample(step, engine.comm.rank)))
        engine.step()
        if scheduler:
            scheduler.step()


def differences(name, schedule):
    """From plain training, at every stage; and of the last rates."""
    wanted, rate = plainly(OPTIMIZERS[name], SCHEDULERS[schedule], 2)
    found = []
    for stage in STAGES:
        engine, optimizer = make_engine(OPTIMIZERS[name], stage)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch's schedulers warn where the optimizer did not step
            train(engine, SCHEDULERS[schedule] and SCHEDULERS[schedule](optimizer))
        assert engine.lr == rate
        found.append(max(float((value - wanted[key]).abs().max()) for key, value in engine.whole_weights()))
    return found


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("adamw", "none"), ("adamw", "cosine"), ("adam", "one cycle"), ("sgd", "one cycle"), ("rmsprop", "cosine")],
)
def test_trains_as_the_optimizer_alone_does(name, schedule):
    assert max(run_ranks(differences, 2, name, schedule)[0]) < 2e-6


def resumed(folder):
    """The weights' differences of a training that goes on in another engine from one that was not interrupted."""
    whole, _ = make_engine(OPTIMIZERS["adamw"], 3)
    train(whole, steps=4)
    first, _ = make_engine(OPTIMIZERS["adamw"], 3)
    train(first, steps=2)
    first.save(folder)
    second, _ = make_engine(OPTIMIZERS["adamw"], 2)
    second.load(folder)
    train(second, steps=2, first=2)
    wanted = whole.full_state_dict()
    return max(float((value - wanted[name]).abs().max()) for name, value in second.full_state_dict().items())


def test_a_state_goes_on(tmp_path):
    assert run_ranks(resumed, 2, str(tmp_path / "state"))[0] == 0


def test_a_state_of_another_optimizers_rate_does_not_change_the_groups(tmp_path):
    named = zerokit.initialize(make_model(), {"optimizer": {"name": "adamw", "lr": 0.5}})
    train(named, steps=1)
    named.save(tmp_path / "state")
    engine, _ = make_engine(lambda model: optim.AdamW(model.parameters(), lr=0.0), 0)
    engine.load(tmp_path / "state")
    before = engine.full_state_dict()
    train(engine, steps=1)
    assert all(torch.equal(value, before[name]) for name, value in engine.full_state_dict().items())


def test_a_model_on_the_meta_device():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    engine, optimizer = make_engine(OPTIMIZERS["adam"], 3, model)
    train(engine, steps=1)
    members = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(a is b for a, b in zip(members, model.parameters(), strict=True)) and not members[0].is_meta


def test_parameters_in_no_group_stay_and_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        engine, _ = make_engine(lambda model: optim.SGD(model[4].parameters(), lr=0.1), 2)
    assert "4 parameters are in no group of the optimizer and stay as they are: 0.weight, 0.bias, 2.weight, …." in (
        caplog.text
    )
    before = engine.full_state_dict()
    train(engine, steps=1)
    moved = {name for name, value in engine.full_state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"4.weight", "4.bias"}


def test_a_parameter_without_a_group_cannot_be_made_trainable():
    engine, _ = make_engine(lambda model: optim.SGD(model[4].parameters(), lr=0.1), 2)
    engine.module[0].weight.requires_grad_(True)
    with pytest.raises(ConfigError, match="'0.weight' requires a gradient and was in no group of the optimizer"):
        train(engine, steps=1)


def replaced(stage):
    """The difference from plain training where a layer is replaced after the first step."""
    new = nn.Linear(8, 8)
    model = make_model()
    optimizer = optim.SGD([{"params": model[0].parameters(), "lr": 0.5}, {"params": model[2:].parameters()}], lr=0.1)
    engine = zerokit.initialize(model, {"zero": {"stage": stage, "min_unit": 0}}, optimizer=optimizer)
    train(engine, steps=1)
    wanted = engine.full_state_dict() | {f"2.{name}": p.detach().clone() for name, p in new.named_parameters()}
    model[2] = new
    plain = make_model()
    plain.load_state_dict(wanted)
    loss_of(plain, sample(1, 0)).backward()
    train(engine, steps=1, first=1)
    rates = {name: 0.5 if name.startswith("0.") else 0.1 for name in wanted}
    steps = {name: p - rates[name] * p.grad for name, p in plain.named_parameters()}
    return max(float((value - steps[name].detach()).abs().max()) for name, value in engine.full_state_dict().items())


@pytest.mark.parametrize("stage", [0, 3])
def test_a_replaced_layer_keeps_the_group_of_its_name(stage):
    assert replaced(stage) < 1e-6


def test_what_must_stay_is_watched():
    engine, optimizer = make_engine(OPTIMIZERS["adam"], 2)
    optimizer.param_groups[0]["eps"] = 0.5
    with pytest.raises(ConfigError, match=r"param_groups\[0\]\['eps'\] went from 1e-06 to 0.5"):
        train(engine, steps=1)


CALLS = {
    "step": (lambda engine, optimizer: optimizer.step(), r"engine.step\(\) updates"),
    "state": (lambda engine, optimizer: optimizer.state_dict(), r"engine.save\(\)"),
    "load": (lambda engine, optimizer: optimizer.load_state_dict({}), r"engine.save\(\) and engine.load\(\)"),
    "rate": (lambda engine, optimizer: engine.set_lr(0.1), "param_groups"),
    "momentum": (lambda engine, optimizer: engine.set_momentum(0.1), "param_groups"),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_the_other_one_is_for_is_refused(call):
    function, message = CALLS[call]
    with pytest.raises(RuntimeError, match=message):
        function(*make_engine(OPTIMIZERS["adam"], 0))


def test_a_recording_would_not_see_the_groups():
    engine, _ = make_engine(OPTIMIZERS["adam"], 0)
    assert engine.changes and not zerokit.initialize(make_model()).changes


@pytest.mark.parametrize(
    ("config", "optimizer", "message"),
    [
        ({"optimizer": "adamw"}, OPTIMIZERS["adam"], "optimizer: given twice"),
        ({}, lambda model: "adamw", 'expected an optimizer of torch.optim, got .*"name": "adamw"'),
        ({}, lambda model: optim.LBFGS(model.parameters()), "torch.optim.LBFGS cannot work on shards"),
        ({}, lambda model: optim.SGD(make_model().parameters(), lr=1.0), "parameters that are not the model's"),
    ],
)
def test_mistakes_are_named(config, optimizer, message):
    model = make_model()
    with pytest.raises(ConfigError, match=message):
        zerokit.initialize(model, config, optimizer=optimizer(model))


def test_clipping_is_off_unless_asked_for():
    def largest_step(config):
        engine = zerokit.initialize(make_model(), {"optimizer": {"name": "sgd", "lr": 1.0, "momentum": 0}, **config})
        before = engine.full_state_dict()
        engine.backward(1000 * loss_of(engine, sample(0, 0)))
        engine.step()
        moves = [(value - before[name]).norm() for name, value in engine.full_state_dict().items()]
        return float(torch.stack(moves).norm()), float(engine.grad_norm)

    step, norm = largest_step({})
    assert step == pytest.approx(norm, rel=1e-4) and norm > 100
    assert largest_step({"train": {"clip_norm": 1.0}})[0] == pytest.approx(1.0, rel=1e-4)
