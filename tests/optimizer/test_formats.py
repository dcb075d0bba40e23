"""Small formats of moments: what they keep of a value, that chance is fair, and that saved states cross formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.optimizer.training import Run, engine_of, train, weights
from tests.ranks import run_ranks
from zerokit.config import registry
from zerokit.config.registry import Choice
from zerokit.optimizer._base import HALF, State
from zerokit.optimizer._codes import code_values
from zerokit.optimizer._formats import BLOCK, format_of, noise, reading
from zerokit.optimizer.adamw import AdamWOptions
from zerokit.zero.update.kernel import Now

MEAN, SQUARE = State("m", moment="mean"), State("v", moment="square")
KINDS = [("bf16", MEAN), ("bf16", SQUARE), ("int8", MEAN), ("int8", SQUARE)]
ERROR = {("bf16", "mean"): 2**-7, ("bf16", "square"): 2**-7, ("int8", "mean"): 2 / 127, ("int8", "square"): 4 / 255}
"""Largest error of one rounding: bf16 of the value itself, codes of the largest of the block."""


def random_values(state: State, count: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed % 7 - 6)
    return values * values if state.moment == "square" else values


@pytest.mark.parametrize(("moments", "state"), KINDS)
@pytest.mark.parametrize("count", [1, 63, 64, 100, 640])
def test_a_value_is_kept_within_the_error_of_one_rounding(moments, state, count):
    form = format_of(moments, state)
    for seed in range(7):
        values = random_values(state, count, seed)
        for random in (HALF, noise(values, values.roll(1), torch.tensor(3.0))):
            planes = form.store(values, random)
            assert [plane.dtype for plane in planes] == [getattr(torch, p.dtype) for p in form.planes]
            assert [len(plane) for plane in planes] == [-(-count // p.per) for p in form.planes]
            largest = torch.nn.functional.pad(values.abs(), (0, -count % BLOCK)).view(-1, BLOCK).amax(1)
            scale = values.abs() if moments == "bf16" else largest.repeat_interleave(BLOCK)[:count]
            wrong = (form.load(planes) - values).abs() / scale
            assert wrong.max() <= ERROR[moments, state.moment] * 1.01


@pytest.mark.parametrize(("moments", "state"), KINDS)
def test_the_mean_of_many_roundings_is_the_value(moments, state):
    values, form = random_values(state, BLOCK, seed=3), format_of(moments, state)
    stored = [form.load(form.store(values, noise(values, values * 0, torch.tensor(float(t))))) for t in range(4000)]
    mean, spread = torch.stack(stored).double().mean(0), torch.stack(stored).double().std(0)
    # A hash has 2¹⁶ values, and the smallest second moments, of which none may become 0, are rounded up.
    assert ((mean - values).abs() <= 5 * spread / 4000**0.5 + 1e-6 * values.abs().max()).all()


@pytest.mark.parametrize("moments", ["bf16", "int8"])
def test_a_slow_average_does_not_stand_still(moments):
    # With halves instead of chance it stays at 1: a step changes it by 0.001, half a unit is 0.002 and more.
    form, value, gradient = format_of(moments, SQUARE), torch.ones(BLOCK), torch.zeros(BLOCK)
    planes, stuck = form.nearest(value), form.nearest(value)
    for step in range(1, 1001):
        value = form.load(planes) * 0.999
        planes = form.store(value, noise(value, gradient, torch.tensor(float(step))))
        value = form.load(stuck) * 0.999
        stuck = form.nearest(value)
    assert form.load(planes).mean() == pytest.approx(0.999**1000, rel=0.12)
    if moments == "bf16":
        assert form.load(stuck).mean() > 0.99


@pytest.mark.parametrize(("moments", "state"), KINDS)
def test_zero_stays_zero_and_a_small_square_never_becomes_it(moments, state):
    form = format_of(moments, state)
    values = torch.zeros(3 * BLOCK)
    values[BLOCK] = 1.0
    values[BLOCK + 1] = 1e-30
    back = form.load(form.store(values, noise(values, values, torch.tensor(1.0))))
    assert (back[values == 0] == 0).all() and back[BLOCK] != 0
    if state is SQUARE:
        assert back[BLOCK + 1] > 0


@pytest.mark.parametrize(("moments", "state"), KINDS)
def test_what_is_stored_and_not_changed_is_stored_again_alike(moments, state):
    values, form = random_values(state, 640), format_of(moments, state)
    once = form.nearest(values)
    again = form.nearest(form.load(once))
    assert torch.equal(form.load(once), form.load(again))


@given(st.floats(width=32), st.integers(0, 2**16 - 1))
@settings(max_examples=300, deadline=None)
def test_bf16_takes_one_of_the_two_neighbours(value, random):
    value = torch.tensor([value], dtype=torch.float32)
    (plane,) = format_of("bf16", MEAN).store(value, torch.tensor([random], dtype=torch.int32))
    if not value.isfinite().all():
        assert torch.equal(plane.float(), value) or (plane.isnan() & value.isnan()).all()
        return
    low = ((value.view(torch.int32) >> 16) << 16).view(torch.float32)
    high = (((value.view(torch.int32) >> 16) + 1) << 16).view(torch.float32)
    assert torch.equal(plane.float(), low) or torch.equal(plane.float(), high)


# -- a training ------------------------------------------------------------------------------------------------------

OPTIMIZERS = ["adamw", "adam", "lion", "lamb", "sgd", "schedule_free_adamw", "muon"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_follows_that_with_fp32_moments(name):
    runs = {moments: Run(name, {"lr": 1e-3, "moments": moments}, steps=8) for moments in ("fp32", "bf16", "int8")}
    found, sizes = {}, {}
    for moments, run in runs.items():
        engine = engine_of(run)
        start = weights(engine)
        train(engine, run.steps)
        found[moments] = torch.cat([(v - start[n]).flatten() for n, v in weights(engine).items()])
        sizes[moments] = engine.memory()["optimizer"]
    assert sizes["int8"] < sizes["bf16"] < sizes["fp32"]
    for moments, limit in (("bf16", 0.05), ("int8", 0.2)):
        difference = (found[moments] - found["fp32"]).norm() / found["fp32"].norm()
        assert 0 < difference < limit, (moments, difference)


@pytest.mark.parametrize("moments", ["bf16", "int8"])
def test_a_step_is_the_formula_on_what_the_planes_hold(moments):
    small, plain = (registry.build("optimizer", Choice("adamw", AdamWOptions(moments=m))) for m in (moments, "fp32"))
    forms = [found.format for found in small.readings]
    p, g = random_values(MEAN, 300, 6), random_values(MEAN, 300, 5)
    old = random_values(MEAN, 300, 4), random_values(SQUARE, 300, 4)
    planes = tuple(plane for form, value in zip(forms, old, strict=True) for plane in form.nearest(value))
    half = len(planes) // 2
    now = Now(*(torch.tensor(x, dtype=torch.float64) for x in (1e-3, 7.0, 0.1)), torch.tensor(0.9).double(), {})
    s = {name: value.float() for name, value in small.scalars(now).items()}
    new, left = small.update(p, g, planes, s)
    values = tuple(form.load(of) for form, of in zip(forms, (planes[:half], planes[half:]), strict=True))
    wanted, moments_of_it = plain.update(p, g, values, s)
    assert torch.equal(new, wanted)
    for form, of, value in zip(forms, (left[:half], left[half:]), moments_of_it, strict=True):
        fair = form.store(value, noise(value, g, torch.tensor(7.0)))
        assert all(torch.equal(a, b) for a, b in zip(of, fair, strict=True))


def test_parameters_by_name_and_vectors_keep_fp32():
    engine = engine_of(Run("adamw", {"moments": "int8", "full_precision": ["embed*"]}))
    states = {name: engine.values.states(name) for name, _ in engine.whole_weights()}
    assert {tuple(kinds) for name, kinds in states.items() if name.startswith("embed")} == {("exp_avg", "exp_avg_sq")}
    stored = {(part.parameter, part.name): part.values.dtype for part in engine.storage.states.slices()}
    for unit in engine.units:
        for name, shape in zip(unit.names, unit.shapes, strict=True):
            small = len(shape) > 1 and not name.startswith("embed")
            assert ((name, "exp_avg.code") in stored) == small and ((name, "exp_avg") in stored) != small


def crossed(first: str, then: str, folder: str) -> dict[tuple[str, str], tuple[float, float]]:
    """Of every moment, read in another format at another stage: the largest difference, and its largest value."""
    one = engine_of(Run("adamw", {"moments": first}), 3)
    train(one, 3)
    one.save(Path(folder))
    other = engine_of(Run("adamw", {"moments": then}), 1)
    other.load(Path(folder))
    assert other.reader.sha256() == one.reader.sha256()
    found = {}
    for name, _ in list(one.whole_weights()):
        for key in ("exp_avg", "exp_avg_sq"):
            old, new = one.values.state(name, key), other.values.state(name, key)
            found[name, key] = (float((old - new).abs().max()), float(old.abs().max()))
    return found


@pytest.mark.parametrize(
    ("first", "then"), [("fp32", "int8"), ("int8", "fp32"), ("bf16", "int8"), ("int8", "bf16"), ("fp32", "bf16")]
)
def test_a_state_is_read_in_another_format(first, then, tmp_path):
    for rank in run_ranks(crossed, 2, first, then, str(tmp_path / "state")):
        for (name, key), (difference, largest) in rank.items():
            error = ERROR.get((then, "mean" if key == "exp_avg" else "square"), 0.0)
            assert largest > 0 and difference <= error * largest, (name, key)


def set_by_name(moments: str) -> None:
    engine = engine_of(Run("adamw", {"moments": moments}), 3)
    train(engine, 1)
    name = next(name for name, value in engine.whole_weights() if value.ndim == 2)
    value = engine.values.state(name, "exp_avg_sq")
    engine.values.set_state(name, "exp_avg_sq", value * 4)
    after = engine.values.state(name, "exp_avg_sq")
    assert (after - value * 4).abs().max() <= 4 * ERROR[moments, "square"] * value.max()
    with pytest.raises(KeyError, match="exp_avg, exp_avg_sq"):
        engine.values.state(name, "code")


@pytest.mark.parametrize("moments", ["bf16", "int8"])
def test_moments_are_read_and_set_by_name(moments):
    run_ranks(set_by_name, 2, moments)


@pytest.mark.parametrize("state", [MEAN, SQUARE])
def test_codes_of_the_table_of_old_are_read(state):
    values = code_values(state.moment == "mean")
    table = reading("int8", state).others[-1]
    codes = torch.arange(256).to(torch.uint8)
    found = table.load([codes, torch.tensor([0.5, 1.0, 2.0, 4.0])])
    scale = torch.tensor([0.5, 1.0, 2.0, 4.0]).repeat_interleave(BLOCK)
    assert torch.equal(found, torch.tensor(values) * scale)
    assert len(set(values)) == 256 and values == sorted(values) and values[-1] == 1.0
