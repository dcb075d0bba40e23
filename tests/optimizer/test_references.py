"""Every optimizer is its reference: a class of torch.optim, or the paper's formula written out here, parameter by
parameter, without shards. One rank, through the engine."""

from __future__ import annotations

import math

import pytest
import torch

from tests.optimizer.training import Run, engine_of, plain, train, weights

DECAY = 0.1


def of_torch(kind, **options):
    """Steps of a torch.optim class, decaying matrices only."""

    def steppers(named):
        matrices = {"params": [p for p in named.values() if p.ndim >= 2]}
        if "weight_decay" in options:
            matrices["weight_decay"] = options["weight_decay"]
        rest = {"params": [p for p in named.values() if p.ndim < 2], "weight_decay": 0.0}
        values = {key: value for key, value in options.items() if key != "weight_decay"}
        optimizer = kind([matrices, rest], **values)
        return lambda step: optimizer.step()

    return steppers


def by_formula(formula, **options):
    """Steps of `formula(p, g, state, step, decay)`, which changes p and state in place."""

    def steppers(named):
        states = {name: {} for name in named}

        @torch.no_grad()
        def step(number):
            for name, p in named.items():
                formula(p, p.grad, states[name], number, DECAY if p.ndim >= 2 else 0.0)

        return step

    return steppers


def lion(p, g, state, step, decay, lr=0.01):
    m = state.setdefault("m", torch.zeros_like(p))
    p.mul_(1 - lr * decay).sub_(lr * (0.9 * m + 0.1 * g).sign())
    m.mul_(0.99).add_(0.01 * g)


def lamb(p, g, state, step, decay, lr=0.01):
    m, v = state.setdefault("m", torch.zeros_like(p)), state.setdefault("v", torch.zeros_like(p))
    m.mul_(0.9).add_(0.1 * g)
    v.mul_(0.999).add_(0.001 * g * g)
    r = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-6) + decay * p
    ratio = min(10.0, float(p.norm() / r.norm())) if p.norm() > 0 and r.norm() > 0 else 1.0
    p.sub_(lr * ratio * r)


def schedule_free(p, g, state, step, decay, lr=0.01):
    """Algorithm 1 as it stands in the paper, with x, y and z apart."""
    if not state:
        state |= {"x": p.clone(), "z": p.clone(), "v": torch.zeros_like(p), "sum": 0.0}
    state["v"].mul_(0.999).add_(0.001 * g * g)
    gamma = lr * math.sqrt(1 - 0.999**step)
    state["z"] -= gamma * g / (state["v"].sqrt() + 1e-8) + gamma * decay * p
    state["sum"] += gamma**2
    c = gamma**2 / state["sum"]
    state["x"].mul_(1 - c).add_(c * state["z"])
    p.copy_(0.1 * state["z"] + 0.9 * state["x"])


def muon(p, g, state, step, decay, lr=0.01):
    """Momentum with Nesterov's look ahead, five quintic iterations, steps of the size of AdamW's."""
    m = state.setdefault("m", torch.zeros_like(p))
    m.mul_(0.95).add_(0.05 * g)
    x = 0.95 * m + 0.05 * g
    x = x / x.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    p.mul_(1 - lr * decay).sub_(lr * 0.2 * math.sqrt(max(p.shape)) * x)


def muon_and_adamw(named):
    blocks = {name: p for name, p in named.items() if p.ndim == 2 and name.startswith("blocks")}
    rest = {name: p for name, p in named.items() if name not in blocks}
    adamw = of_torch(torch.optim.AdamW, lr=0.01, betas=(0.9, 0.95), weight_decay=DECAY)(rest)
    others = by_formula(muon)(blocks)

    def step(number):
        adamw(number)
        others(number)

    return step


LR = {"lr": 0.01, "weight_decay": DECAY}
EXACT = {
    "adamw": (Run("adamw", LR), of_torch(torch.optim.AdamW, betas=(0.9, 0.99), **LR)),
    "adam": (Run("adam", LR), of_torch(torch.optim.Adam, **LR)),
    "sgd": (Run("sgd", LR), of_torch(torch.optim.SGD, momentum=0.9, **LR)),
    "adagrad": (
        Run("adagrad", LR | {"lr_decay": 0.1, "initial": 0.2}),
        of_torch(torch.optim.Adagrad, lr_decay=0.1, initial_accumulator_value=0.2, **LR),
    ),
    "lion": (Run("lion", LR), by_formula(lion)),
    "lamb": (Run("lamb", LR), by_formula(lamb)),
    "adafactor": (
        Run("adafactor", LR | {"lr": 0.05}),
        of_torch(torch.optim.Adafactor, lr=0.05, weight_decay=DECAY, eps=(1e-15, 1e-3)),
    ),
    "schedule_free_adamw": (Run("schedule_free_adamw", LR), by_formula(schedule_free)),
    "muon": (Run("muon", LR | {"ns_dtype": "float32"}), muon_and_adamw),
}
EXACT |= {
    kind: (Run("torch", LR | {"type": kind}), of_torch(getattr(torch.optim, kind), **LR))
    for kind in ("RMSprop", "Adadelta", "Adamax", "ASGD", "NAdam", "RAdam", "Rprop")
}
EXACT["torch with arguments"] = (
    Run("torch", LR | {"type": "Adam", "params": {"amsgrad": True, "betas": [0.8, 0.9]}}),
    of_torch(torch.optim.Adam, amsgrad=True, betas=(0.8, 0.9), **LR),
)


def without(run: Run, key: str) -> Run:
    return Run(run.name, {k: v for k, v in run.options.items() if k != key})


EXACT["Rprop"] = (without(EXACT["Rprop"][0], "weight_decay"), lambda named: _rprop(named))


def _rprop(named):
    optimizer = torch.optim.Rprop(named.values(), lr=0.01)
    return lambda step: optimizer.step()


@pytest.mark.parametrize("name", EXACT)
def test_equals_its_reference(name):
    # the same formula in another order of operations: a few ULP a step, more where a root of a small number divides
    run, steppers = EXACT[name]
    engine = engine_of(run)
    train(engine, run.steps)
    start, theirs = plain(run, steppers)
    mine = weights(engine)
    assert any(not torch.equal(start[key], mine[key]) for key in mine)
    for key in mine:
        torch.testing.assert_close(mine[key], theirs[key], rtol=2e-5, atol=5e-6, msg=lambda text, key=key: key + text)


def test_muon_in_bf16_is_near_that_of_torch():
    # one step, as the next ones start from what bf16 has rounded, and small singular values make much of that
    run = Run("muon", {"lr": 0.01, "scale": "original", "weight_decay": 0.1, "adamw_lr": 0.0}, steps=1)
    engine = engine_of(run)
    train(engine, run.steps)

    def steppers(named):
        matrices = [p for name, p in named.items() if p.ndim == 2 and name.startswith("blocks")]
        optimizer = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1)
        return lambda step: optimizer.step()

    start, theirs = plain(run, steppers)
    mine = weights(engine)
    for name in mine:
        moved = (theirs[name] - start[name]).norm()
        assert (mine[name] - theirs[name]).norm() <= 1e-3 * moved, name
    assert any(name.startswith("blocks") and not torch.equal(mine[name], start[name]) for name in mine)


def test_adam8bit_is_adamw_with_moments_of_8_bits():
    options = LR | {"full_precision": []}
    found = []
    for run in (Run("adam8bit", options), Run("adamw", options | {"beta2": 0.999, "moments": "int8"})):
        engine = engine_of(run)
        train(engine, run.steps)
        found.append(weights(engine))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
