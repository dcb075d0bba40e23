"""Single parameters read and written whole: at every stage, in every precision, on one and two ranks."""

from __future__ import annotations

import pytest
import torch

from tests.ranks import run_ranks
from tests.zero.models import MODELS, batches
from tests.zero.training import Case, make_engine, train
from zerokit.precision._scaler import StaticScaler
from zerokit.zero.engine import Engine
from zerokit.zero.numerics import Numerics

CPU = torch.device("cpu")
FORMATS = {
    "fp32": lambda: Numerics(),
    "bf16": lambda: Numerics(torch.bfloat16, "split"),
    "fp16": lambda: Numerics(torch.float16, "separate", scaler=StaticScaler(1024.0, CPU)),
}
NAMES = ("blocks.1.up.weight", "embed.weight", "norm.bias")  # in a block, in the root, smaller than a shard's border
STAGES = (0, 1, 2, 3)
in_every_format = pytest.mark.parametrize("precision", FORMATS)
on_one_and_two_ranks = pytest.mark.parametrize("world", [1, 2])


def on_all_stages(function, world: int, *args) -> list:
    """What `function(stage, *args)` returns at each stage on each rank."""

    def run() -> list:
        return [function(stage, *args) for stage in STAGES]

    return [result for rank in run_ranks(run, world) for result in rank]


def engine_of(stage: int, precision: str, **options) -> Engine:
    return make_engine(Case(**options), stage, numerics=FORMATS[precision]())


def pattern(shape: torch.Size) -> torch.Tensor:
    """Values that no 16-bit format holds exactly."""
    return (torch.arange(shape.numel(), dtype=torch.float32) / 7 - 1.3).view(shape)


def weights(stage: int, precision: str) -> dict:
    engine = engine_of(stage, precision)
    train(engine, Case(steps=1))
    whole = {name: value.clone() for name, value in engine.whole_weights()}
    read = all(torch.equal(engine.values.weight(name), whole[name]) for name in whole)
    for name in NAMES:
        engine.values.set_weight(name, pattern(whole[name].shape))
        whole[name] = pattern(whole[name].shape)
    written = all(torch.equal(value, whole[name]) for name, value in engine.whole_weights())
    with torch.no_grad():
        loss = engine(*batches(1, 1)[0][0]).item()
    train(engine, Case(steps=1))
    return {"read": read, "written": written, "loss": loss, "sha256": engine.reader.sha256()}


@on_one_and_two_ranks
@in_every_format
def test_weights(precision, world):
    results = on_all_stages(weights, world, precision)
    assert all(r["read"] and r["written"] for r in results)
    assert len({r["loss"] for r in results}) == 1  # the model computes with them
    assert len({r["sha256"] for r in results}) == 1  # and goes on from them


def expected_gradient(engine: Engine, steps: list, count: int) -> dict[str, torch.Tensor]:
    """Mean gradients over the ranks' first `count` of two micro-batches, each counting half."""
    plain = MODELS["plain"]()
    plain.load_state_dict(engine.full_state_dict())
    for index in range(count * engine.comm.world):
        (plain(*steps[0][index]) / (2 * engine.comm.world)).backward()
    return {name: p.grad for name, p in plain.named_parameters()}


def gradients(stage: int, precision: str) -> dict:
    engine = engine_of(stage, precision, accumulation=2, optimizer="sgd", options={"lr": 1.0, "momentum": 0.0})
    world, rank = engine.comm.world, engine.comm.rank
    steps = batches(1, 2 * world)
    found = {"none": engine.values.gradient(NAMES[0])}
    before = engine.full_state_dict()
    for micro in range(2):
        engine.backward(engine(*steps[0][micro * world + rank]))
        expected = expected_gradient(engine, steps, micro + 1)
        errors = [(engine.values.gradient(name) - expected[name]).abs().max().item() for name in NAMES]
        found[f"error {micro}"] = max(errors)
    norms = {name: engine.values.gradient(name).norm().item() for name in before}
    for name in NAMES:
        engine.values.set_gradient(name, torch.full_like(before[name], 0.5))
        norms[name] = 0.5 * before[name].numel() ** 0.5
    engine.step()
    found["norm"] = abs(float(engine.grad_norm) / sum(n * n for n in norms.values()) ** 0.5 - 1)
    decay = 0.1  # of matrices, an L2 penalty at lr 1
    after = engine.full_state_dict()
    moved = [before[n] - 0.5 - decay * (before[n].ndim > 1) * before[n] - after[n] for n in NAMES]
    found["moved"] = max(error.abs().max().item() for error in moved)
    return found


TOLERANCE = {"fp32": 1e-6, "bf16": 3e-2, "fp16": 3e-3}
"""Of gradients computed in the format, of size about 1."""


@on_one_and_two_ranks
@in_every_format
def test_gradients(precision, world):
    for found in on_all_stages(gradients, world, precision):
        assert found["none"] is None
        assert max(found["error 0"], found["error 1"]) < TOLERANCE[precision]
        assert found["norm"] < 1e-5
        assert found["moved"] < 1e-5


def early_gradient(stage: int) -> dict:
    """A gradient set while its parts still lie on the ranks."""
    engine = make_engine(Case(accumulation=2, optimizer="sgd", options={"lr": 1.0, "momentum": 0.0}), stage)
    batch = batches(1, 1)[0][0]
    engine.backward(engine(*batch))
    engine.values.set_gradient("norm.bias", torch.full((12,), 0.25))
    middle = engine.values.gradient("norm.bias").tolist()
    engine.backward(engine(*batch) * 0.0)
    return {"middle": middle, "end": engine.values.gradient("norm.bias").tolist()}


def test_a_gradient_can_be_set_between_micro_batches():
    assert on_all_stages(early_gradient, 2) == [{"middle": [0.25] * 12, "end": [0.25] * 12}] * 8


def states(stage: int, precision: str) -> dict:
    engine = engine_of(stage, precision)
    train(engine, Case(steps=2))
    name = NAMES[0]
    shape = engine.values.weight(name).shape
    read = engine.values.state(name, "exp_avg").tolist()
    engine.values.set_state(name, "exp_avg", pattern(shape))
    written = torch.equal(engine.values.state(name, "exp_avg"), pattern(shape))
    train(engine, Case(steps=1))
    return {
        "names": engine.values.states(name), "read": read, "written": written, "sha256": engine.reader.sha256(),
    }  # fmt: skip


@on_one_and_two_ranks
@in_every_format
def test_optimizer_states(precision, world):
    results = on_all_stages(states, world, precision)
    assert all(r == results[0] for r in results)
    assert results[0]["written"] and results[0]["names"] == ["exp_avg", "exp_avg_sq"]
    assert any(any(row) for row in results[0]["read"])


def copies(stage: int, precision: str) -> dict:
    engine = engine_of(stage, precision)
    train(engine, Case(steps=1))
    before = engine.full_state_dict()
    source = engine.comm.world - 1
    named = dict(engine.module.named_parameters())
    with engine.values.copies(NAMES, source):
        whole = all(torch.equal(named[n].float(), before[n].to(named[n].dtype).float()) for n in NAMES)
        with torch.no_grad():
            named[NAMES[0]].view(-1)[3] = 0.75 + engine.comm.rank - source  # another value on the other rank
    after = engine.full_state_dict()
    changed = {n: (after[n] != before[n]).nonzero().tolist() for n in before if not torch.equal(after[n], before[n])}
    value = after[NAMES[0]].view(-1)[3].item()
    with engine.values.copies(NAMES):
        named[NAMES[1]].data.fill_(9.0)
    kept = all(torch.equal(value, after[name]) for name, value in engine.full_state_dict().items())
    train(engine, Case(steps=1))
    return {"whole": whole, "changed": changed, "value": value, "kept": kept, "sha256": engine.reader.sha256()}


@on_one_and_two_ranks
@in_every_format
def test_changes_of_one_rank_are_kept_where_it_made_them(precision, world):
    results = on_all_stages(copies, world, precision)
    assert all(r["changed"] == {NAMES[0]: [[0, 3]]} and r["value"] == 0.75 for r in results)
    assert all(r["kept"] for r in results)
    assert len({r["sha256"] for r in results}) == 1
    if precision != "bf16":  # whose compute weights round ties away from zero
        assert all(r["whole"] for r in results)


def test_a_frozen_parameter_is_written_too():
    def written(stage: int) -> list:
        engine = make_engine(Case(model="frozen"), stage)
        batch = batches(1, 1)[0][0]
        first = engine(*batch).item()
        engine.values.set_weight("blocks.0.down.weight", torch.ones(12, 24))
        value = engine.values.weight("blocks.0.down.weight")
        return [bool(value.eq(1).all()), first == engine(*batch).item(), engine.values.states("embed.weight")]

    assert on_all_stages(written, 2) == [[True, False, []]] * 8


def test_mistakes_are_named():
    engine = make_engine(Case(), 2)
    with pytest.raises(KeyError, match="no parameter 'head'"):
        engine.values.weight("head")
    with pytest.raises(KeyError, match="no optimizer state 'momentum'; it has exp_avg, exp_avg_sq"):
        engine.values.state("norm.bias", "momentum")
    with pytest.raises(ValueError, match=r"'norm.bias': expected a value of shape \(12,\), got \(3,\)"):
        engine.values.set_weight("norm.bias", torch.zeros(3))
    with pytest.raises(RuntimeError, match="between engine.backward and engine.step"):
        engine.values.set_gradient("norm.bias", torch.zeros(12))
