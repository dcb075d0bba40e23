"""A model that changes under its engine trains on as PyTorch's would, and an engine gives its model back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.ranks import run_ranks
from tests.zero.training import make_optimizer
from zerokit.config.errors import ConfigError
from zerokit.zero.engine import Engine
from zerokit.zero.numerics import Numerics

DIM = 6
STAGES = [0, 1, 2, 3]


class Net(nn.Module):
    def __init__(self, rows: int = 10):
        super().__init__()
        self.embed = nn.Embedding(rows, DIM)
        self.layers = nn.Sequential(*[nn.Linear(DIM, DIM) for _ in range(4)])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(self.embed(tokens))


def fresh(change: Callable | None = None) -> Net:
    torch.manual_seed(0)
    model = Net()
    if change is not None:
        change(model)
    return model


def tokens(step: int, rank: int) -> Tensor:
    return torch.randint(0, 10, (7,), generator=torch.Generator().manual_seed(10 * step + rank))


def freeze(model: Net) -> None:
    model.layers[0].requires_grad_(False)


def swap(model: Net) -> None:
    model.layers[0].requires_grad_(True)
    model.layers[3].requires_grad_(False)


def swap_back(model: Net) -> None:
    model.layers[3].requires_grad_(True)


def grow(model: Net) -> None:
    torch.manual_seed(5)
    old, model.embed = model.embed, nn.Embedding(12, DIM)
    del old


def replace_parameter(model: Net) -> None:
    model.layers[1].weight = nn.Parameter(torch.eye(DIM))


def add_module(model: Net) -> None:
    torch.manual_seed(6)
    model.layers.append(nn.Linear(DIM, DIM))


CHANGES = {
    "unfrozen": (freeze, {2: swap, 4: swap_back}),
    "module replaced": (None, {2: grow}),
    "parameter replaced": (None, {2: replace_parameter, 3: replace_parameter}),
    "module added": (None, {1: add_module, 2: freeze}),
}


def trained(stage: int, name: str, numerics: Numerics | None, options: dict) -> dict:
    before, changes = CHANGES[name]
    model = fresh(before)
    if torch.distributed.is_initialized() and torch.distributed.get_rank():  # those of rank 0 count
        nn.init.zeros_(model.embed.weight)
    engine = Engine(model, make_optimizer(**options), stage=stage, numerics=numerics)
    for step in range(6):
        if step in changes:
            changes[step](engine.module)
        engine.backward(engine(tokens(step, engine.comm.rank)).float().square().mean())
        engine.step()
    return {name: value.tolist() for name, value in engine.full_state_dict().items()}


def reference(name: str, make: Callable) -> nn.Module:
    before, changes = CHANGES[name]
    model = fresh(before)
    optimizer = make(list(model.parameters()))
    for step in range(6):
        if step in changes:
            known = set(model.parameters())
            changes[step](model)
            new = [p for p in model.parameters() if p not in known]
            if new:
                optimizer.add_param_group({"params": new})
        for rank in range(2):
            (model(tokens(step, rank)).square().mean() / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", list(CHANGES))
def test_a_model_that_changes_trains_on(stage, name):
    options = {"name": "sgd", "lr": 0.1, "momentum": 0.9}
    expected = reference(name, lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
    for found in run_ranks(trained, 2, stage, name, None, options):
        assert set(found) == {name for name, _ in expected.named_parameters()}
        for key, value in expected.named_parameters():
            torch.testing.assert_close(torch.tensor(found[key]), value.detach(), rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", ["unfrozen", "module replaced"])
def test_stages_agree_with_split_masters_and_eight_bit_states(name):
    options = {"name": "adam8bit", "lr": 0.01}
    numerics = Numerics(torch.bfloat16, "split", torch.float32, torch.float32)
    results = [run_ranks(trained, 2, stage, name, numerics, options)[0] for stage in STAGES]
    assert all(result == results[0] for result in results)


# -- loading into the module, kept parameters, what is refused ---------------------------------------------------------


def loaded(stage: int) -> bool:
    engine = Engine(fresh(), make_optimizer("sgd", lr=0.1), stage=stage,
                    numerics=Numerics(torch.bfloat16, "split", torch.float32, torch.float32))  # fmt: skip
    torch.manual_seed(7)
    other = Net()
    engine.module.load_state_dict(other.state_dict())
    engine.module.layers[1].load_state_dict({k: v + 1 for k, v in other.layers[1].state_dict().items()})
    found = engine.full_state_dict()
    expected = dict(other.state_dict())
    for name in ("layers.1.weight", "layers.1.bias"):
        expected[name] = expected[name] + 1
    engine.backward(engine(tokens(0, 0)).float().mean())
    engine.step()
    return all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("stage", STAGES)
def test_load_state_dict_of_a_module_reaches_the_masters(stage):
    assert run_ranks(loaded, 2, stage) == [True, True]


def asked_for_a_part(stage: int) -> str:
    engine = Engine(fresh(), make_optimizer("sgd", lr=0.1), stage=stage)
    try:
        engine.module.layers[2].state_dict()
    except RuntimeError as error:
        return str(error)
    return "given"


def test_state_dict_of_a_part_is_refused_where_weights_are_divided():
    assert "full_state_dict" in run_ranks(asked_for_a_part, 2, 3)[0]
    assert run_ranks(asked_for_a_part, 2, 2)[0] == "given"


class Quantised(Net):
    """Has frozen integers, as a quantised base has."""

    def __init__(self):
        super().__init__()
        self.codes = nn.Parameter(torch.arange(DIM, dtype=torch.int8), requires_grad=False)
        self.phase = nn.Parameter(torch.ones(DIM, dtype=torch.cfloat), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * self.codes * self.phase.real


def with_integers(stage: int, folder: str) -> tuple:
    model = Quantised()
    if torch.distributed.get_rank():
        model.codes.data.zero_()
    engine = Engine(model, make_optimizer("sgd", lr=0.1), stage=stage)
    engine.backward(engine(tokens(0, 0)).square().mean())
    engine.step()
    engine.save(folder)
    model.codes.data.zero_()
    engine.load(folder)
    return model.codes.dtype, model.codes.tolist(), model.phase.dtype


@pytest.mark.parametrize("stage", [0, 3])
def test_frozen_parameters_of_other_formats_stay_as_they_are(stage, tmp_path):
    for found in run_ranks(with_integers, 2, stage, str(tmp_path / "state")):
        assert found == (torch.int8, list(range(DIM)), torch.cfloat)


@pytest.mark.parametrize("dtype", [torch.float64, torch.cfloat])
def test_formats_that_cannot_be_trained_are_refused_by_name(dtype):
    model = fresh()
    model.layers[2].weight = nn.Parameter(model.layers[2].weight.detach().to(dtype))
    with pytest.raises(ConfigError, match="'layers.2.weight' is a"):
        Engine(model, make_optimizer("sgd", lr=0.1))


def test_a_weight_that_its_forward_pass_writes_is_refused():
    model = fresh()
    model.embed.max_norm = 1.0
    with pytest.raises(ConfigError, match="'embed' has max_norm"):
        Engine(model, make_optimizer("sgd", lr=0.1))


# -- giving the model back ---------------------------------------------------------------------------------------------


def again(stage: int, announced: bool) -> list:
    model, sums = fresh(), []
    for _ in range(2):
        engine = Engine(model, make_optimizer("sgd", lr=0.1, momentum=0.0), stage=stage)
        engine.backward(engine(tokens(0, engine.comm.rank)).square().mean())
        engine.step()
        sums.append(engine.full_state_dict()["layers.0.weight"].tolist())
        if announced:
            assert engine.detach() is model
            assert type(model.embed._parameters) is dict and type(model.embed.weight) is nn.Parameter
            assert not model._forward_hooks and not model.layers[0]._forward_pre_hooks
            assert model.layers[0].weight.tolist() == sums[-1]
    return sums


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("announced", [False, True])
def test_a_model_may_have_one_engine_after_the_other(stage, announced):
    first, second = run_ranks(again, 2, stage, announced)[0]
    assert first != second
    expected = fresh()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(2):
        for rank in range(2):
            (expected(tokens(0, rank)).square().mean() / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(torch.tensor(second), expected.layers[0].weight.detach())


def freed(stage: int) -> list[bool]:
    gc.collect()
    gc.disable()
    engine = Engine(fresh(), make_optimizer("adamw", lr=0.1), stage=stage)
    for step in range(2):
        engine.backward(engine(tokens(step, engine.comm.rank)).square().mean())
        engine.step()
    engine.full_state_dict()
    held = [
        engine,
        engine.storage,
        engine.module,
        engine.units[0].gradient.values,
        next(iter(engine.storage.states.arenas.values())),
    ]
    alive = [weakref.ref(thing) for thing in held]
    del engine, held
    return [reference() is None for reference in alive]


@pytest.mark.parametrize("stage", STAGES)
def test_memory_is_free_without_the_garbage_collector(stage):
    assert run_ranks(freed, 2, stage) == [[True] * 5] * 2
