"""1-bit Adam: AdamW in its warm-up; then the paper's algorithm, written out here for all ranks in one process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.optimizer.test_references import of_torch
from tests.optimizer.test_stages import BF16
from tests.optimizer.test_states import together, whole_states
from tests.optimizer.training import Run, engine_of, plain, train, weights
from tests.ranks import run_ranks
from tests.zero.models import MODELS, batches
from tests.zero.training import make_optimizer
from zerokit.comm.mesh import make_mesh
from zerokit.config.registry import options_type
from zerokit.zero.engine import Engine, Numerics
from zerokit.zero.placement import STAGES, evenly
from zerokit.zero.update.compress import exact_steps

LR, DECAY = 0.01, 0.1
OPTIONS = {"lr": LR, "weight_decay": DECAY, "freeze_step": 3}
RUN = Run("onebit_adam", OPTIONS, steps=7)
NEVER = Run("onebit_adam", OPTIONS | {"freeze_step": 100}, steps=7)


def test_the_warm_up_is_adamw_with_bias_corrections():
    mine, steppers = engine_of(NEVER), of_torch(torch.optim.AdamW, lr=LR, weight_decay=DECAY)
    train(mine, NEVER.steps)
    _, theirs = plain(NEVER, steppers)
    for name, value in weights(mine).items():
        torch.testing.assert_close(value, theirs[name], rtol=2e-5, atol=5e-6)


# -- the paper's algorithm -----------------------------------------------------------------------------------------


def chunks_of(engine: Engine) -> dict[str, list[tuple[int, int]]]:
    """By parameter: the elements that lie in the shard of each rank."""
    found, mesh = {}, engine.comm.mesh
    for unit in engine.storage.trainable:
        for index, name in enumerate(unit.names):
            shards = [unit.layout.held(evenly(mesh), rank) for rank in mesh.ranks]
            spans = [unit.layout.overlap(index, shard)[0] for shard in shards]
            found[name] = [(span.start, span.stop) for span in spans]
    return found


def sign_compress(x: Tensor, cuts: list[tuple[int, int]]) -> Tensor:
    """Signs times the root mean square of each chunk."""
    out = torch.zeros_like(x)
    for start, stop in cuts:
        if stop > start:
            part = x[start:stop]
            scale = part.norm() / (stop - start) ** 0.5
            out[start:stop] = torch.where(part >= 0, scale, -scale)
    return out


def emulated(start: dict[str, Tensor], cuts: dict, run: Run, world: int) -> dict[str, Tensor]:
    """Algorithm 1 for `world` workers and servers, in one process."""
    model = MODELS[run.model]()
    named = dict(model.named_parameters())
    for name, p in named.items():
        p.data.copy_(start[name])
    freeze = run.options["freeze_step"]
    m, v, worker, server = {}, {}, {}, {}
    for name, p in named.items():
        n = p.numel()
        m[name], v[name], server[name] = torch.zeros(n), torch.zeros(n), torch.zeros(n)
        worker[name] = [torch.zeros(n) for _ in range(world)]
    for t, step in enumerate(batches(run.steps, world), start=1):
        gradients = []
        for batch in step:
            model.zero_grad()
            model(*batch).backward()
            gradients.append({name: p.grad.reshape(-1).clone() for name, p in named.items()})
        for name, p in named.items():
            own = [g[name] for g in gradients]
            if t <= freeze:
                mean = sum(own) / world
                m[name] = 0.9 * m[name] + 0.1 * mean
                v[name] = 0.999 * v[name] + 0.001 * mean * mean
            else:
                u = [0.9 * m[name] + 0.1 * g + e for g, e in zip(own, worker[name], strict=True)]
                sent = [sign_compress(x, cuts[name]) for x in u]
                worker[name] = [x - s for x, s in zip(u, sent, strict=True)]
                total = sum(sent) / world + server[name]
                m[name] = sign_compress(total, cuts[name])
                server[name] = total - m[name]
            seen = v[name] > 0
            root = (v[name] / (1 - 0.999 ** min(t, freeze))).sqrt()
            move = torch.where(seen, m[name] / (1 - 0.9**t) / (root + 1e-8), 0.0)
            decay = DECAY if p.ndim >= 2 else 0.0
            p.data.mul_(1 - LR * decay).sub_(LR * move.view(p.shape))
    return {name: p.detach() for name, p in named.items()}


def against_the_paper(stage: int, run: Run) -> tuple[str, dict]:
    torch.manual_seed(0)
    engine = engine_of(run, stage)
    start, world = weights(engine), engine.comm.world
    train(engine, run.steps)
    end = weights(engine)
    expected = emulated(start, chunks_of(engine), run, world)
    moved = max(float((end[name] - start[name]).abs().max()) for name in end)
    assert moved > 0.01
    for name, value in end.items():
        # A sign is a sign of a sum: one that rounds to the other side of 0 moves a few elements by a whole scale.
        close = torch.isclose(value, expected[name], rtol=1e-4, atol=1e-5)
        assert close.float().mean() > 0.99, (name, float((value - expected[name]).abs().max()))
    for unit in engine.storage.trainable:
        mean = engine._update.exchange._means[unit]
        assert not any(mean[pad.start : pad.stop].any() for pad in unit.layout.padding())
    return engine.reader.sha256(), whole_states(engine)


@pytest.mark.parametrize("world", [2, 3])
def test_the_compressed_steps_are_the_papers_algorithm(world):
    seen = [run_ranks(against_the_paper, world, stage, RUN) for stage in (0, 1)]
    assert len({digest for ranks in seen for digest, _ in ranks}) == 1
    states = seen[1][0][1]
    assert any(any(values) for name, (_, _, values) in states.items() if name.startswith("worker_error"))
    assert any(any(values) for name, (_, _, values) in states.items() if name.startswith("server_error"))


def digest(stage: int, run: Run, accumulation: int = 1) -> str:
    engine = engine_of(run, stage, accumulation=accumulation)
    for step in batches(run.steps, accumulation * engine.comm.world):
        for micro in range(accumulation):
            engine.backward(engine(*step[micro * engine.comm.world + engine.comm.rank]))
        engine.step()
    return engine.reader.sha256()


@pytest.mark.parametrize("numerics", [Numerics(), BF16], ids=["fp32", "bf16"])
def test_stages_0_and_1_agree_bit_for_bit_with_clipping_and_micro_batches(numerics):
    run = Run("onebit_adam", OPTIONS, steps=6, numerics=numerics, clip_norm=0.5)
    assert len({sha for stage in (0, 1) for sha in run_ranks(digest, 2, stage, run, 2)}) == 1


def clipped(clip_norm: float | None) -> tuple[float, str]:
    engine = engine_of(Run("onebit_adam", OPTIONS, steps=4, clip_norm=clip_norm))
    norms = []
    for step in batches(4, 2):
        engine.backward(engine(*step[engine.comm.rank]))
        own = torch.stack([u.gradient.values.double().norm() for u in engine.storage.trainable]).norm()
        engine.step()
        norms.append((float(engine.grad_norm), float(own)))
    return norms[-1], engine.reader.sha256()


def test_the_norm_of_compressed_steps_is_the_ranks_root_mean_square():
    (norm, one), _ = run_ranks(clipped, 2, None)[0]
    (_, other), _ = run_ranks(clipped, 2, None)[1]
    assert norm == pytest.approx(((one**2 + other**2) / 2) ** 0.5, rel=1e-6)
    assert run_ranks(clipped, 2, 0.01)[0][1] != run_ranks(clipped, 2, None)[0][1]


# -- the wire ----------------------------------------------------------------------------------------------------------


def traffic(stage: int, dtype: torch.dtype = torch.float32) -> list[dict[str, int]]:
    """Bytes of each step by kind, for a model of 263 k parameters."""
    numerics = Numerics(dtype, "same" if dtype is torch.float32 else "split", reduce=dtype)
    optimizer = make_optimizer("onebit_adam", freeze_step=3)
    engine, steps = Engine(nn.Linear(512, 512), optimizer, stage=stage, numerics=numerics), []
    for _ in range(6):
        engine.comm.reset_counters()
        engine.backward(engine(torch.randn(4, 512)).square().mean())
        engine.step()
        steps.append(dict(engine.comm.traffic))
    return steps


def test_bytes_on_the_wire_fall_32_times():
    """An all-reduce is a reduce-scatter and an all-gather of its bytes: so are the two exchanges of messages."""
    (zero, _), (one, _) = run_ranks(traffic, 2, 0), run_ranks(traffic, 2, 1)
    exact = zero[2]["all_reduce"]
    assert zero[5].keys() == {"all_to_all", "all_gather", "norm"}
    assert zero[5]["all_to_all"] == zero[5]["all_gather"]
    assert 31.9 < exact / zero[5]["all_to_all"] <= 32
    assert one[5]["all_to_all"] == zero[5]["all_to_all"] and "reduce_scatter" not in one[5]
    # weights are gathered as before; the first compressed step has gathered momenta once
    assert one[5]["all_gather"] == one[2]["all_gather"] + zero[5]["all_gather"]
    assert one[3]["all_gather"] == one[5]["all_gather"] + exact and one[4] == one[5]
    assert one[2].keys() == {"reduce_scatter", "all_gather", "norm"}


def test_bytes_on_the_wire_fall_16_times_where_gradients_travel_in_bf16():
    steps = run_ranks(traffic, 2, 0, torch.bfloat16)[0]
    assert 15.9 < steps[2]["all_reduce"] / steps[5]["all_to_all"] <= 16


# -- states ------------------------------------------------------------------------------------------------------------


def resumed(run: Run, stages: tuple[int, int], at: int, folder: str) -> tuple:
    straight = engine_of(run, stages[0])
    train(straight, at)
    straight.save(Path(folder))
    train(straight, 3, first=at)
    other = engine_of(run, stages[1])
    train(other, 5)  # what it has must go
    other.load(Path(folder))
    train(other, 3, first=at)
    return straight.reader.sha256(), other.reader.sha256()


@pytest.mark.parametrize(("stages", "at"), [((0, 1), 5), ((1, 0), 5), ((1, 1), 2)])
def test_a_training_goes_on_bit_for_bit(stages, at, tmp_path):
    run = Run("onebit_adam", OPTIONS, numerics=BF16)
    for one, other in run_ranks(resumed, 2, run, stages, at, str(tmp_path / "state")):
        assert one == other


def saved_or_read(stage: int, folder: str, save: bool) -> tuple:
    engine = engine_of(RUN, stage)
    if save:
        train(engine, 5)
        engine.save(Path(folder))
    else:
        train(engine, 5)  # what it has must go
        engine.load(Path(folder))
    return whole_states(engine), engine._exact


def test_on_another_number_of_ranks_feedback_of_workers_starts_anew(tmp_path):
    three = run_ranks(saved_or_read, 3, 1, str(tmp_path / "state"), True)
    two = run_ranks(saved_or_read, 2, 1, str(tmp_path / "state"), False)
    assert not any(exact for _, exact in two)
    before, after = (_whole([states for states, _ in ranks]) for ranks in (three, two))
    assert before == after
    assert any(any(values) for name, values in after.items() if name.startswith("server_error"))
    for states, _ in two:
        assert not any(any(values) for name, (_, _, values) in states.items() if name.startswith("worker_error"))


def _whole(ranks: list[dict]) -> dict[str, list]:
    """States put together from their parts on every rank."""
    shared = [{name: part for name, part in rank.items() if "worker" not in name} for rank in ranks]
    return together([{"states": rank} for rank in shared])


def skipped(stage: int, selects: bool) -> None:
    engine = engine_of(RUN, stage)
    engine._update.selects = selects
    train(engine, 5)
    before, states = weights(engine), whole_states(engine)
    (batch,) = batches(1, 1)[0]
    factor = float("inf") if engine.comm.rank else 1.0
    engine.backward(engine(*batch) * factor)
    engine.step()
    assert int(engine.steps_skipped) == 1
    assert all(torch.equal(before[key], value) for key, value in weights(engine).items())
    assert whole_states(engine) == states
    engine.backward(engine(*batch))
    engine.step()
    assert any(not torch.equal(before[key], value) for key, value in weights(engine).items())
    assert all(value.isfinite().all() for value in weights(engine).values())


@pytest.mark.parametrize("selects", [True, False])
@pytest.mark.parametrize("stage", [0, 1])
def test_a_step_that_one_rank_cannot_take_leaves_everything_as_it_was(stage, selects):
    run_ranks(skipped, 2, stage, selects)


def test_skipped_steps_count_towards_the_warm_up():
    engine = engine_of(RUN)
    (batch,) = batches(1, 1)[0]
    for number in range(3):
        assert engine._exact
        engine.backward(engine(*batch) * (float("nan") if number == 1 else 1.0))
        engine.step()
    assert not engine._exact
    train(engine, 2)
    assert engine.storage.states.kept["square_steps"].unique().tolist() == [2.0]


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [2, 3])
def test_stages_that_divide_gradients_are_refused_with_the_alternative(stage):
    with pytest.raises(ValueError, match="onebit_adam .* zero=stage0 or zero=stage1, or optimizer=adamw"):
        engine_of(RUN, stage)


def test_the_configuration_knows_the_stages_that_the_placements_allow():
    allowed = []
    for number, stage in STAGES.items():
        with suppress(ValueError):
            exact_steps([make_optimizer("onebit_adam")], stage, make_mesh(2))
            allowed.append(number)
    assert tuple(allowed) == options_type("optimizer", "onebit_adam").stages


def test_parameters_that_would_change_at_different_steps_are_refused():
    groups = [{"match": "head*", "freeze_step": 2}]
    with pytest.raises(ValueError, match="after the same step, got 2, 3: leave freeze_step out"):
        engine_of(Run("onebit_adam", OPTIONS | {"groups": groups}))
