"""Backward passes that begin in other ways than by `engine.backward`, at every stage, beside PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.ranks import run_ranks
from tests.zero.training import make_optimizer
from zerokit.precision._scaler import StaticScaler
from zerokit.zero.engine import Engine
from zerokit.zero.numerics import Numerics

DIM, STEPS = 6, 3
STAGES = [0, 1, 2, 3]


def net(seed: int, out: int = DIM) -> nn.Sequential:
    torch.manual_seed(seed)
    rows = [layer for _ in range(4) for layer in (nn.Linear(DIM, DIM), nn.Tanh())]
    return nn.Sequential(*rows, nn.Linear(DIM, out))


def engine_of(model: nn.Module, stage: int, **options) -> Engine:
    return Engine(model, make_optimizer("sgd", lr=0.1, momentum=0.0), stage=stage, **options)


def rows(step: int, rank: int, salt: int = 0) -> Tensor:
    return torch.randn(3, DIM, generator=torch.Generator().manual_seed(100 * step + 10 * salt + rank))


def weights_of(*engines: Engine) -> list[dict]:
    return [{name: value.tolist() for name, value in engine.full_state_dict().items()} for engine in engines]


def compare(results: list, models: list[nn.Module]) -> None:
    for of_rank in results:
        for found, model in zip(of_rank, models, strict=True):
            for name, value in model.named_parameters():
                torch.testing.assert_close(torch.tensor(found[name]), value.detach(), rtol=1e-5, atol=1e-6)


def plain(loss_of: Callable, models: list[nn.Module], world: int = 2, micros: int = 1) -> list[nn.Module]:
    """Train all `models` on the mean over ranks and micro-batches of `loss_of(models, step, micro, rank)`."""
    optimizer = torch.optim.SGD([p for model in models for p in model.parameters()], lr=0.1)
    for step in range(STEPS):
        for micro in range(micros):
            for rank in range(world):
                (loss_of(models, step, micro, rank) / (world * micros)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return models


# -- loss.backward() ---------------------------------------------------------------------------------------------------


def one(models: list, step: int, micro: int, rank: int) -> Tensor:
    return models[0](rows(step, rank, micro)).square().mean()


def by_loss_itself(stage: int, accumulation: int) -> list[dict]:
    engine = engine_of(net(0), stage, accumulation=accumulation)
    for step in range(STEPS):
        for micro in range(accumulation):
            one([engine], step, micro, engine.comm.rank).backward()
        engine.step()
    return weights_of(engine)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_backward_of_the_loss_itself_is_a_micro_batch(stage, accumulation):
    compare(run_ranks(by_loss_itself, 2, stage, accumulation), plain(one, [net(0)], micros=accumulation))


def both(models: list, step: int, micro: int, rank: int) -> Tensor:
    actor, critic = models
    value = critic(actor(rows(step, rank)))
    return value.square().mean() + actor(rows(step, rank, 1)).mean()


def actor_and_critic(stage: int) -> list[dict]:
    engines = [engine_of(net(0), stage), engine_of(net(1), stage)]
    for step in range(STEPS):
        both(engines, step, 0, engines[0].comm.rank).backward()
        for engine in engines:
            engine.step()
    return weights_of(*engines)


@pytest.mark.parametrize("stage", STAGES)
def test_one_loss_trains_all_engines_that_it_depends_on(stage):
    compare(run_ranks(actor_and_critic, 2, stage), plain(both, [net(0), net(1)]))


def generator_and_discriminator(stage: int) -> list[dict]:
    g, d = engine_of(net(0), stage), engine_of(net(1), stage)
    for step in range(STEPS):
        real, z = rows(step, g.comm.rank), rows(step, g.comm.rank, 1)
        d.backward((d(real) - 1).square().mean() + d(g(z).detach()).square().mean())
        d.step()
        g.backward((d(g(z)) - 1).square().mean())
        g.step()
    return weights_of(g, d)


@pytest.mark.parametrize("stage", STAGES)
def test_an_engines_backward_trains_it_alone(stage):
    g, d = net(0), net(1)
    of_g, of_d = torch.optim.SGD(g.parameters(), lr=0.1), torch.optim.SGD(d.parameters(), lr=0.1)
    for step in range(STEPS):
        batches = [(rows(step, rank), rows(step, rank, 1)) for rank in range(2)]
        for real, z in batches:
            (((d(real) - 1).square().mean() + d(g(z).detach()).square().mean()) / 2).backward()
        of_d.step()
        of_d.zero_grad()
        for _, z in batches:
            ((d(g(z)) - 1).square().mean() / 2).backward()
        of_g.step()
        of_g.zero_grad()
        of_d.zero_grad()
    compare(run_ranks(generator_and_discriminator, 2, stage), [g, d])


def with_a_loss_scale(stage: int) -> list[dict]:
    scaler = StaticScaler(1024.0, torch.device("cpu"))
    engine = engine_of(net(0), stage, numerics=Numerics(master="same", scaler=scaler))
    loss = one([engine], 0, 0, engine.comm.rank)
    with pytest.raises(RuntimeError, match="engine.scale"):
        loss.backward()
    for step in range(STEPS):
        engine.scale(one([engine], step, 0, engine.comm.rank)).backward()
        engine.step()
    return weights_of(engine)


@pytest.mark.parametrize("stage", [0, 3])
def test_a_loss_scale_has_to_be_asked_for(stage):
    compare(run_ranks(with_a_loss_scale, 2, stage), plain(one, [net(0)]))


class Boxed(nn.Linear):
    """Hands its output out where nobody sees it."""

    def forward(self, x: Tensor) -> list:
        out = super().forward(x)
        return [lambda: out]


def hidden(models: list, step: int, micro: int, rank: int) -> Tensor:
    (give,) = models[0](rows(step, rank, micro))
    return give().square().mean()


def with_a_hidden_loss(stage: int, scale: float | None) -> list[dict]:
    scaler = None if scale is None else StaticScaler(scale, torch.device("cpu"))
    torch.manual_seed(0)
    engine = engine_of(Boxed(DIM, DIM), stage, numerics=Numerics(master="same", scaler=scaler))
    for step in range(STEPS):
        engine.scale(hidden([engine], step, 0, engine.comm.rank)).backward()
        engine.step()
    return weights_of(engine)


@pytest.mark.parametrize("scale", [None, 1024.0])
@pytest.mark.parametrize("stage", [0, 3])
def test_a_scaled_loss_trains_though_nobody_sees_its_pass(stage, scale):
    torch.manual_seed(0)
    compare(run_ranks(with_a_hidden_loss, 2, stage, scale), plain(hidden, [Boxed(DIM, DIM)]))


# -- torch.autograd.grad -----------------------------------------------------------------------------------------------


def penalty(models: list, step: int, micro: int, rank: int) -> Tensor:
    x = rows(step, rank).requires_grad_()
    (gradient,) = torch.autograd.grad(models[0](x).sum(), x, create_graph=True)
    return models[0](x).mean() + (gradient.norm(dim=1) - 1).square().mean()


class Checkpointed(nn.Sequential):
    """Runs each of its modules in a checkpoint."""

    def forward(self, x: Tensor) -> Tensor:
        for module in self:
            x = checkpoint(module, x, use_reentrant=False)
        return x


def with_a_penalty(stage: int, checkpoints: bool = False) -> list[dict]:
    engine = engine_of(Checkpointed(*net(0)) if checkpoints else net(0), stage)
    for step in range(STEPS):
        loss = penalty([engine], step, 0, engine.comm.rank)
        assert engine.micro_batches == 0, "autograd.grad is no micro-batch"
        engine.backward(loss)
        engine.step()
    return weights_of(engine)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("checkpoints", [False, True])
def test_the_gradient_of_a_gradient(stage, checkpoints):
    compare(run_ranks(with_a_penalty, 2, stage, checkpoints), plain(penalty, [net(0)]))


# -- what cannot be right is refused -----------------------------------------------------------------------------------


def updated_in_between(stage: int) -> None:
    engine = engine_of(net(0), stage)
    late = engine(rows(0, 0)).mean()
    engine.backward(engine(rows(1, 0)).square().mean())
    engine.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation|updated since the forward pass"):
        engine.backward(late)
    engine.backward(engine(rows(1, 0)).square().mean())
    engine.step()


@pytest.mark.parametrize("stage", STAGES)
def test_backward_of_weights_that_were_updated_since_is_refused_as_by_pytorch(stage):
    run_ranks(updated_in_between, 2, stage)


def changed_activation() -> None:
    engine = engine_of(net(0), 3)
    hidden = engine.module[:2](rows(0, 0))  # the Tanh keeps its output
    loss = engine.module[2:](hidden).mean()
    with torch.no_grad():
        hidden.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        engine.backward(loss)


def test_activations_that_were_changed_in_place_are_refused_as_by_pytorch():
    run_ranks(changed_activation, 2)


def test_a_gradient_of_no_micro_batch_is_refused():
    engine = engine_of(net(0), 0)
    engine.backward(engine(rows(0, 0)).mean())
    engine.module[0].weight.square().sum().backward()
    with pytest.raises(RuntimeError, match="'0.weight' has a gradient that belongs to no micro-batch"):
        engine.step()


@pytest.mark.parametrize("clip", [nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_])
def test_clipping_by_torch_is_refused_in_words(clip):
    engine = engine_of(net(0), 2)
    engine.backward(engine(rows(0, 0)).mean())
    with pytest.raises(RuntimeError, match="clip_norm"):
        clip(engine.module.parameters(), 1.0)
    engine.step()
    assert engine.module[0].weight.grad is None
    other = net(1)
    other(rows(0, 0)).sum().backward()
    clip(other.parameters(), 1e-9)
    assert max(parameter.grad.abs().max() for parameter in other.parameters()) <= 1e-9


def failed_once(stage: int) -> list[dict]:
    engine = engine_of(net(0), stage)

    def fail(_: Tensor) -> None:
        raise MemoryError("no room")

    hidden = engine.module[:4](rows(0, engine.comm.rank))
    hidden.register_hook(fail)
    with pytest.raises(MemoryError):
        engine.module[4:](hidden).square().mean().backward()
    for step in range(STEPS):
        one([engine], step, 0, engine.comm.rank).backward()
        engine.step()
    return weights_of(engine)


@pytest.mark.parametrize("stage", [0, 3])
def test_a_pass_that_failed_leaves_nothing(stage):
    compare(run_ranks(failed_once, 2, stage), plain(one, [net(0)]))


def test_a_copy_is_a_model_of_its_own():
    engine = engine_of(net(0), 3)
    with engine.gathered() as model:
        twin = copy.deepcopy(model)
    twin[0].weight.square().sum().backward()
    assert twin[0].weight.grad is not None and type(twin._parameters) is dict
