"""The mean over target tokens: whatever their division over ranks and micro-batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.ranks import run_ranks
from tests.zero.training import make_optimizer
from zerokit.precision._scaler import StaticScaler
from zerokit.zero.engine import Engine
from zerokit.zero.numerics import Numerics

DIM, ROWS = 6, 8


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(DIM, DIM) for _ in range(3)])


def rows(step: int, micro: int, rank: int) -> Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(100 * step + 10 * micro + rank))


def mean(outputs: Tensor, count: int) -> Tensor:
    return outputs[:count].float().square().mean(1).sum() / max(count, 1)


def trained(stage: int, counts: list, numerics: Numerics | None = None, as_tensor: bool = False) -> tuple[dict, float]:
    """Weights after a step for each of `counts`, tokens by micro-batch and rank; tokens of the last step."""
    engine = Engine(
        model(),
        make_optimizer("sgd", lr=0.1, momentum=0.0),
        stage=stage,
        accumulation=len(counts[0]),
        numerics=numerics,
    )
    for step, of_step in enumerate(counts):
        for micro, of_micro in enumerate(of_step):
            count = of_micro[engine.comm.rank]
            loss = mean(engine(rows(step, micro, engine.comm.rank)), count)
            engine.backward(loss, tokens=torch.tensor(count) if as_tensor else count)
        engine.step()
    return {n: v.tolist() for n, v in engine.full_state_dict().items()}, float(engine.step_tokens)


def reference(counts: list) -> dict[str, Tensor]:
    plain = model()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for step, of_step in enumerate(counts):
        total = sum(sum(of_micro) for of_micro in of_step)
        for micro, of_micro in enumerate(of_step):
            for rank, count in enumerate(of_micro):
                (mean(plain(rows(step, micro, rank)), count) * count / max(total, 1)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(plain.named_parameters())


UNEVEN = [[[5, 0], [1, 8]], [[8, 3], [0, 2]], [[0, 0], [0, 7]]]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_gradients_are_means_over_all_tokens(stage, as_tensor):
    for weights, tokens in run_ranks(trained, 2, stage, UNEVEN, None, as_tensor):
        assert tokens == 7
        for name, value in reference(UNEVEN).items():
            torch.testing.assert_close(torch.tensor(weights[name]), value.detach(), rtol=1e-6, atol=1e-7)


def scaled(stage: int) -> tuple[dict, float]:
    scaler = StaticScaler(2.0**10, torch.device("cpu"))
    return trained(stage, UNEVEN, Numerics(torch.float16, "separate", torch.float32, torch.float16, scaler))


def test_a_loss_scale_does_not_meet_the_tokens():
    weights, _ = run_ranks(scaled, 2, 2)[0]
    for name, value in reference(UNEVEN).items():
        torch.testing.assert_close(torch.tensor(weights[name]), value.detach(), rtol=1e-2, atol=2e-3)


def test_a_step_without_tokens_changes_nothing():
    weights, tokens = trained(0, [[[0]]])
    assert tokens == 0
    assert all(torch.equal(torch.tensor(weights[name]), value) for name, value in model().named_parameters())


def test_tokens_for_some_micro_batches_only_are_refused():
    engine = Engine(model(), make_optimizer("sgd", lr=0.1, momentum=0.0), accumulation=2)
    engine.backward(engine(rows(0, 0, 0)).mean(), tokens=3)
    with pytest.raises(ValueError, match="for some micro-batches"):
        engine.backward(engine(rows(0, 0, 0)).mean())
    with pytest.raises(ValueError, match="not both"):
        engine.backward(engine(rows(0, 0, 0)).mean(), tokens=3, share=0.5)


def test_the_gradient_of_an_input_is_that_of_the_loss():
    engine = Engine(model(), make_optimizer("sgd", lr=0.1, momentum=0.0), accumulation=4)
    x, y = (rows(0, 0, 0).requires_grad_() for _ in range(2))
    engine.backward(engine(x).square().mean())
    model()(y).square().mean().backward()
    torch.testing.assert_close(x.grad, y.grad)
