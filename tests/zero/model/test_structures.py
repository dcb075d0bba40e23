"""Models built in ways that hooks on modules could miss: stage 3 computes what stage 0 does, or says why it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.fuzz.modules import Keeps
from tests.ranks import run_ranks
from tests.zero.training import make_optimizer
from zerokit.comm import Communicator
from zerokit.zero.engine import Engine
from zerokit.zero.materialize import build_on_meta

DIM = 6


class Rows(nn.Module):
    """Rows of modules in containers that have no forward of their own."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.Linear(DIM, DIM), nn.ModuleDict({"ff": nn.Linear(DIM, DIM)})]) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        for first, second in self.layers:
            x = x + second["ff"](torch.tanh(first(x)))
        return x


class Encoders(nn.Module):
    """Units whose inputs require no gradient, side by side."""

    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleList(nn.Linear(DIM, DIM) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        return sum(torch.tanh(encoder(x)) * (i + 1) for i, encoder in enumerate(self.encoders))


class Detached(Encoders):
    """Units cut off from each other's gradients."""

    def forward(self, x: Tensor) -> Tensor:
        total = 0.0
        for encoder in self.encoders:
            x = torch.tanh(encoder(x.detach()))
            total = total + x
        return total


class Passing(nn.Module):
    """Blocks that return one of their inputs as it is."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(DIM, DIM)

        def forward(self, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
            return torch.tanh(self.linear(x) + bias), bias

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.full((DIM,), 0.1))
        self.blocks = nn.ModuleList(self.Block() for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias * 2
        for block in self.blocks:
            x, bias = block(x, bias)
        return x


class Checkpointed(Encoders):
    """A model's own activation checkpoint around several units."""

    def run(self, x: Tensor) -> Tensor:
        for encoder in self.encoders:
            x = x + torch.tanh(encoder(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.run, checkpoint(self.run, x, use_reentrant=False), use_reentrant=False)


class Choosing(Encoders):
    """Each rank runs other units: possible where weights are whole."""

    def forward(self, x: Tensor) -> Tensor:
        rank = Communicator(torch.device("cpu")).rank
        return torch.tanh(self.encoders[rank](x)) + self.encoders[3](x)


class Sneaky(Encoders):
    """Uses a unit's parameters without calling its module."""

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.linear(x, self.encoders[1].weight) + self.encoders[0](x)
        for encoder in self.encoders:
            x = x + torch.tanh(encoder(x))
        return x


class Box:
    """Says nothing of what it holds."""

    def __init__(self, value: Tensor):
        self.value = value


class Opaque(Encoders):
    """Units that hand out their outputs inside an object."""

    class Layer(nn.Linear):
        def forward(self, box: Box) -> Box:
            return Box(box.value + torch.tanh(super().forward(box.value)))

    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleList(self.Layer(DIM, DIM) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        box = Box(x)
        for encoder in self.encoders:
            box = encoder(box)
        return box.value


class Keeping(Opaque):
    """Units below outputs that nobody sees, whose backward reads weights that autograd has not saved."""

    class Layer(nn.Linear):
        def forward(self, box: Box) -> Box:
            return Box(box.value + Keeps.apply(box.value, self.weight) + self.bias)

    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleList(self.Layer(DIM, DIM) for _ in range(5))


class Penalised(nn.Module):
    """Hooks around several units each, which put all their weights into the loss."""

    def __init__(self):
        super().__init__()
        first = nn.Sequential(nn.Linear(DIM, DIM), nn.Tanh(), nn.Linear(DIM, DIM))
        self.parts = nn.ModuleDict({"first": first, "second": nn.Sequential(nn.Linear(DIM, DIM), nn.LayerNorm(DIM))})
        self.seen: list[Tensor] = []
        for part in self.parts.values():
            part.register_forward_pre_hook(self.read)

    def read(self, module: nn.Module, _args: tuple) -> None:
        self.seen.append(sum(p.square().sum() for p in module.parameters()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.clear()
        x = self.parts["second"](self.parts["first"](x))
        return x + 0.01 * sum(self.seen)


class InPlace(nn.Module):
    """Outputs that are views, changed in place; units that change their input and return it."""

    class Adding(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(DIM, DIM)

        def forward(self, x: Tensor) -> Tensor:
            return x.add_(torch.tanh(self.linear(x.clone())))

    def __init__(self):
        super().__init__()
        rows = [nn.Linear(DIM, DIM), self.Adding(), nn.Linear(DIM, DIM), nn.ReLU(inplace=True), nn.Linear(DIM, DIM)]
        self.layers = nn.Sequential(*rows, self.Adding(), nn.Linear(DIM, DIM))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.view(3, 1, DIM))


class Probed(Encoders):
    """A loss of inner values alone, which hooks have caught; the outputs of the units are not used."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.tanh(self.up(x)))

    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleList(self.Layer() for _ in range(5))
        self.seen: list[Tensor] = []
        for encoder in self.encoders:
            encoder.up.register_forward_hook(lambda module, args, output: self.seen.append(output))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.clear()
        for encoder in self.encoders:
            encoder(x)
        return sum((i + 1) * seen.sin() for i, seen in enumerate(self.seen))


class Normed(nn.Module):
    """Weights that a forward pre-hook of the model's own computes."""

    def __init__(self):
        super().__init__()
        norm = nn.utils.weight_norm
        self.layers = nn.Sequential(*(layer for _ in range(4) for layer in (norm(nn.Linear(DIM, DIM)), nn.Tanh())))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Reentrant(Encoders):
    """Reentrant checkpoints around several units."""

    def run(self, first: int, x: Tensor) -> Tensor:
        for encoder in self.encoders[first : first + 3]:
            x = x + torch.tanh(encoder(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.encoders[4](x))
        for first in (0, 2):
            x = checkpoint(self.run, first, x, use_reentrant=True)
        return x


class InnerCheckpoint(Encoders):
    """Checkpoints inside units, around a part whose value is used outside of them."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
            self.scale = nn.Parameter(torch.ones(DIM))
            self.seen: Tensor | None = None

        def inner(self, x: Tensor) -> Tensor:
            return torch.tanh(self.up(x * self.scale)) * self.scale

        def forward(self, x: Tensor) -> Tensor:
            self.seen = checkpoint(self.inner, x, use_reentrant=False)
            return self.down(self.seen)

    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleList(self.Layer() for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        for encoder in self.encoders:
            encoder(x)
        return sum((i + 1) * encoder.seen.sin() for i, encoder in enumerate(self.encoders))


class Recurrent(nn.Module):
    """Modules that keep their parameters in a list of their own as well."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTM(DIM, DIM, batch_first=True) for _ in range(4))

    def run(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x)[0]

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(1)
        for layer in self.layers:
            x = x + checkpoint(self.run, layer, x, use_reentrant=False)
        return x


MORE = (Sneaky, Opaque, Keeping, Penalised, InPlace, Probed, Normed, Reentrant, InnerCheckpoint, Recurrent)
MODELS = {m.__name__: m for m in (*MORE, Rows, Encoders, Detached, Passing, Checkpointed, Choosing)}


def engine_of(model: nn.Module, stage: int, **options) -> Engine:
    return Engine(model, make_optimizer("sgd", lr=0.1, momentum=0.0), stage=stage, **options)


def inputs(rank: int, steps: int) -> list[Tensor]:
    return list(torch.randn(steps, 3, DIM, generator=torch.Generator().manual_seed(rank)))


def plainly_trained(name: str, world: int) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in zip(*(inputs(rank, 4) for rank in range(world)), strict=True):
        for x in batch:
            (model(x).square().mean() / world).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def trained(name: str, stages: list[int]) -> list[tuple[str, dict]]:
    results = []
    for stage in stages:
        torch.manual_seed(0)
        engine = engine_of(MODELS[name](), stage)
        for x in inputs(engine.comm.rank, 4):
            engine.backward(engine(x).square().mean())
            engine.step()
        results.append((engine.reader.sha256(), {n: v.tolist() for n, v in engine.full_state_dict().items()}))
    return results


@pytest.mark.parametrize("name", [name for name in MODELS if name != "Choosing"])
def test_stages_agree_with_each_other_and_with_pytorch(name):
    results = run_ranks(trained, 2, name, [0, 1, 2, 3])
    assert len({digest for rank in results for digest, _ in rank}) == 1
    expected = dict(plainly_trained(name, 2).named_parameters())
    for name, value in results[0][3][1].items():
        torch.testing.assert_close(torch.tensor(value), expected[name].detach(), rtol=1e-5, atol=1e-6)


def test_ranks_may_use_different_units_where_weights_are_whole():
    results = run_ranks(trained, 2, "Choosing", [0, 1, 2])
    assert len({digest for rank in results for digest, _ in rank}) == 1


class Clashing(Encoders):
    """Uses two units at once that share memory."""

    def forward(self, x: Tensor) -> Tensor:
        first, third = self.encoders[0].weight, self.encoders[2].weight
        return x @ first @ third


def message_of(model: type[nn.Module], stage: int) -> str:
    engine = engine_of(model(), stage)
    try:
        engine.backward(engine(torch.ones(2, DIM)).mean())
    except RuntimeError as error:
        return str(error)
    return "no error"


def test_units_used_at_once_that_share_memory_are_an_error_on_every_rank():
    assert all("at the same time" in message for message in run_ranks(message_of, 2, Clashing, 3))
    assert run_ranks(message_of, 2, Clashing, 2) == ["no error"] * 2


def chosen(stage: int, units: list[str]) -> str:
    torch.manual_seed(0)
    engine = engine_of(Choosing(), stage, units=units)
    try:
        for x in inputs(engine.comm.rank, 2):
            engine.backward(engine(x).square().mean())
            engine.step()
    except RuntimeError as error:
        return str(error)
    return engine.reader.sha256()


def test_ranks_that_need_different_units_are_told_which():
    first, second = run_ranks(chosen, 2, 3, [])
    assert "'encoders.0'" in first and "'encoders.1'" in first and "zero.units" in first
    assert "'encoders.0'" in second and "'encoders.1'" in second and "zero.units" in second


def test_ranks_may_choose_among_modules_that_are_no_units():
    whole = run_ranks(chosen, 2, 2, [])
    assert run_ranks(chosen, 2, 3, ["encoders.3"]) == whole


class Failing(Checkpointed):
    """Raises in the forward or in the backward pass when told to."""

    where = ""

    def forward(self, x: Tensor) -> Tensor:
        for index, encoder in enumerate(self.encoders):
            x = x + torch.tanh(encoder(x))
            if index == 2 and self.where == "backward":
                x.register_hook(self.fail)
        if self.where == "forward":
            self.fail(x)
        return x

    @staticmethod
    def fail(_: Tensor) -> None:
        raise MemoryError("no room")


def failed_once(stage: int, where: str) -> str:
    torch.manual_seed(0)
    model = Failing()
    engine = engine_of(model, stage, accumulation=2)
    for number, x in enumerate(inputs(engine.comm.rank, 3)):
        for attempt in range(2 if number == 1 and where else 1):
            model.where = where if number == 1 and attempt == 0 else ""
            try:
                for part in (x, x + 1):
                    engine.backward(engine(part).square().mean())
            except MemoryError:
                if where == "forward":
                    assert engine.micro_batches == 0
                continue
        engine.step()
    return engine.reader.sha256()


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_step_that_failed_can_be_done_again(stage, where):
    assert run_ranks(failed_once, 2, stage, where) == run_ranks(failed_once, 2, stage, "")


def accuracy_before_the_step(stage: int) -> list[float]:
    torch.manual_seed(0)
    engine, losses = engine_of(Passing(), stage), []
    for x in inputs(engine.comm.rank, 4):
        loss = engine(x).square().mean()
        engine.backward(loss)
        engine(x)  # between backward and step, with gradients on
        engine.step()
        losses.append(loss.item())
    return losses


def test_a_forward_between_backward_and_step_keeps_nothing():
    results = [run_ranks(accuracy_before_the_step, 2, stage) for stage in (0, 1, 3)]
    assert results[0] == results[1] == results[2]


class Zeroed(nn.Module):
    """Initialises itself in its constructor, as most models do."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(DIM, DIM)
        nn.init.zeros_(self.head.weight)


class Forgetful(nn.Module):
    """Claims to initialise itself, and leaves a buffer out."""

    shardwise_init = True

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(DIM))
        self.register_buffer("table", torch.arange(3.0))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)


def test_only_models_that_say_so_are_built_on_meta():
    assert build_on_meta(Zeroed) is None
    assert next(build_on_meta(Forgetful).parameters()).is_meta


def test_what_reset_parameters_leaves_out_is_named():
    with pytest.raises(ValueError, match=r"Forgetful.reset_parameters\(\) left 'table' unset"):
        engine_of(build_on_meta(Forgetful), 0)


def test_equal_modules_start_with_different_values():
    with torch.device("meta"):
        model = Encoders()
    weights = engine_of(model, 0).full_state_dict()
    assert not torch.equal(weights["encoders.0.weight"], weights["encoders.1.weight"])
