from __future__ import annotations

import pytest
import torch

from tests.zero.training import make_optimizer, scalars_of

REFERENCES = {
    "adamw": (dict(lr=0.01, weight_decay=0.1), torch.optim.AdamW, dict(betas=(0.9, 0.99))),
    "adam": (dict(lr=0.01, weight_decay=0.1), torch.optim.Adam, dict(betas=(0.9, 0.999))),
    "sgd": (dict(lr=0.01, weight_decay=0.1, momentum=0.9), torch.optim.SGD, {}),
    "sgd plain": (dict(lr=0.01, momentum=0.0), torch.optim.SGD, {}),
    "sgd nesterov": (dict(lr=0.01, momentum=0.8, nesterov=True), torch.optim.SGD, {}),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_torch_optim(name):
    # the same formula in another order of operations: a few ULP a step
    options, reference, extra = REFERENCES[name]
    optimizer = make_optimizer(name.split()[0], **options)
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(1000, generator=generator)
    theirs = torch.nn.Parameter(p.clone())
    stepper = reference([theirs], **options, **extra)
    state = tuple(torch.zeros_like(p) for _ in optimizer.states)
    for step in range(1, 11):
        g = torch.randn(1000, generator=generator)
        theirs.grad = g.clone()
        stepper.step()
        scalars = scalars_of(optimizer, options["lr"], step, options.get("weight_decay", 0.0))
        p, state = optimizer.update(p, g, state, scalars)
    torch.testing.assert_close(p, theirs.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_an_element_does_not_depend_on_its_place(name):
    optimizer = make_optimizer(name)
    generator = torch.Generator().manual_seed(0)
    p, g, *state = (torch.randn(257, generator=generator).abs() for _ in range(2 + len(optimizer.states)))
    scalars = scalars_of(optimizer, 0.1, 3, 0.1)
    whole, _ = optimizer.update(p, g, tuple(state), scalars)
    for cut in (1, 7, 100):
        parts = [
            optimizer.update(p[s], g[s], tuple(x[s] for x in state), scalars)[0] for s in (slice(cut), slice(cut, None))
        ]
        assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamw", {"beta1": 1.0}, r"beta1 must be in \[0, 1\)"),
        ("adamw", {"lr": -1.0}, "lr must be at least 0"),
        ("adamw", {"lr": float("inf")}, "lr must be at least 0 and finite, got inf"),
        ("sgd", {"nesterov": True, "momentum": 0.0}, "nesterov needs momentum"),
    ],
)
def test_impossible_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(name, **options)
