"""The stages compute the same: bit for bit where the order of additions allows, else within stated tolerances."""

from __future__ import annotations

import pytest
import torch

from tests.ranks import run_ranks
from tests.zero.models import MODELS
from tests.zero.training import Case, outcome, reference
from zerokit.config import registry
from zerokit.config.registry import Choice


def assert_ranks_agree(results: list[dict]) -> None:
    for stage in results[0]:
        assert len({rank[stage]["sha256"] for rank in results}) == 1, f"ranks differ at stage {stage}"


def assert_close(a: dict, b: dict, tolerance: float) -> None:
    for name in a:
        torch.testing.assert_close(
            torch.tensor(a[name]), torch.tensor(b[name]), atol=tolerance, rtol=tolerance, msg=name
        )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "adam"])
def test_stages_agree_bit_for_bit_after_20_steps(optimizer):
    case = Case(optimizer=optimizer, steps=20)
    results = run_ranks(outcome, 2, case)
    assert_ranks_agree(results)
    assert len({r["sha256"] for r in results[0].values()}) == 1
    assert results[0][0]["weights"] == reference(case, world=2, after_each_micro_batch=False)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_accumulation_pairs_stages_bit_for_bit(optimizer):
    case = Case(optimizer=optimizer, accumulation=4, steps=6)
    results = run_ranks(outcome, 2, case)
    assert_ranks_agree(results)
    mine = results[0]
    assert mine[0]["sha256"] == mine[1]["sha256"]
    assert mine[2]["sha256"] == mine[3]["sha256"]
    assert_close(mine[0]["weights"], mine[3]["weights"], 1e-6)
    assert mine[0]["weights"] == reference(case, world=2, after_each_micro_batch=False)
    assert mine[2]["weights"] == reference(case, world=2, after_each_micro_batch=True)


@pytest.mark.parametrize("model", [name for name in MODELS if name != "plain"])
def test_awkward_models_agree_bit_for_bit(model):
    case = Case(model=model, steps=4)
    results = run_ranks(outcome, 2, case)
    assert_ranks_agree(results)
    assert len({r["sha256"] for r in results[0].values()}) == 1
    assert results[0][3]["weights"] == reference(case, world=2, after_each_micro_batch=True)


@pytest.mark.parametrize("world", [3, 4])
def test_more_ranks_agree_within_rounding(world):
    # gloo adds more than two ranks in an order that depends on the place in the buffer: 1 ULP of each gradient, which
    # Adam's division by its root turns into at most a few 1e-6 of a weight in 4 steps
    case = Case(steps=4)
    results = run_ranks(outcome, world, case)
    assert_ranks_agree(results)
    whole = reference(case, world=world, after_each_micro_batch=True)
    for stage in range(4):
        assert_close(results[0][stage]["weights"], whole, 5e-6)


def test_one_rank_takes_every_stage():
    case = Case(steps=3)
    results = outcome(case)
    assert len({r["sha256"] for r in results.values()}) == 1
    assert results[3]["weights"] == reference(case, world=1, after_each_micro_batch=True)


def test_clipping_is_the_same_at_every_stage():
    case = Case(steps=5, clip_norm=0.05, accumulation=2)
    free = Case(steps=5, accumulation=2)
    results, unclipped = run_ranks(outcome, 2, case), run_ranks(outcome, 2, free)
    mine = results[0]
    assert mine[0]["sha256"] == mine[1]["sha256"] and mine[2]["sha256"] == mine[3]["sha256"]
    assert mine[0]["sha256"] != unclipped[0][0]["sha256"]
    assert mine[0]["norm"] == pytest.approx(mine[3]["norm"], rel=1e-6)


@pytest.mark.parametrize("clip_norm", [0.05, 100.0])
def test_clipping_follows_the_reference(clip_norm):
    # the norm is summed in another order, and 1e-6 is added to it: SGD passes both on to the weights
    case = Case(optimizer="sgd", steps=5, clip_norm=clip_norm, options={"momentum": 0.0, "lr": 1.0})
    mine = run_ranks(outcome, 2, case, (3,))[0]
    assert_close(
        mine[3]["weights"], reference(case, world=2, after_each_micro_batch=True), 2e-5 if clip_norm < 1 else 1e-6
    )


BF16 = dict(compute=torch.bfloat16, master="split")


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("reduce", [torch.float32, torch.bfloat16])
def test_bf16_stages_agree(accumulation, reduce):
    # With two ranks each sum over the ranks has one rounding at every stage. Where micro-batches are added first and
    # the sums rounded to bf16 afterwards (stages 0, 1), up to 2**-8 of a gradient differs; with Adam that is at most
    # 2 * lr per step
    case = Case(steps=4, accumulation=accumulation, reduce=reduce, **BF16)
    mine = run_ranks(outcome, 2, case)[0]
    assert mine[0]["sha256"] == mine[1]["sha256"]
    assert mine[2]["sha256"] == mine[3]["sha256"]
    assert_close(mine[0]["weights"], mine[3]["weights"], 1e-6 if reduce == torch.float32 else 8e-3)


def test_split_master_weights_equal_separate_ones():
    # they round the compute weights differently only at exact ties, which do not occur here
    split = Case(steps=5, **BF16)
    separate = Case(steps=5, compute=torch.bfloat16, master="separate")
    assert outcome(split, (0,))[0]["weights"] == outcome(separate, (0,))[0]["weights"]


def test_fp16_stages_agree():
    case = Case(steps=4, compute=torch.float16, master="separate", accumulation=2)
    mine = run_ranks(outcome, 2, case)[0]
    assert mine[0]["sha256"] == mine[1]["sha256"] and mine[2]["sha256"] == mine[3]["sha256"]
    assert_close(mine[0]["weights"], mine[3]["weights"], 1e-5)


def checkpointing(name: str, **options):
    """The `wrap` of a registered kind of activation checkpointing."""
    return registry.build("checkpointing", Choice(name, registry.options_type("checkpointing", name)(**options))).wrap


@pytest.mark.parametrize("name", ["full", "every_k", "selective", "cpu"])
def test_activation_checkpointing_changes_no_bit(name):
    plain = Case(steps=3, accumulation=2, clip_norm=0.5)
    wrapped = Case(steps=3, accumulation=2, clip_norm=0.5, wrap=checkpointing(name))
    a, b = run_ranks(outcome, 2, plain), run_ranks(outcome, 2, wrapped)
    for stage in range(4):
        assert a[0][stage]["sha256"] == b[0][stage]["sha256"]


def compiled(forward, index):
    return torch.compile(forward, backend="aot_eager")


@pytest.mark.parametrize("name", ["none", "full", "selective"])
def test_compiled_blocks_agree(name):
    # tracing may decompose operations: equal between stages, within rounding of eager
    wrap = checkpointing(name)
    case = Case(steps=3, clip_norm=0.5, wrap=lambda forward, index: compiled(wrap(forward, index), index))
    mine = run_ranks(outcome, 2, case)[0]
    assert len({r["sha256"] for r in mine.values()}) == 1
    eager = outcome_of_stage_3(Case(steps=3, clip_norm=0.5))
    assert_close(mine[3]["weights"], eager, 1e-5)


def outcome_of_stage_3(case: Case) -> dict:
    return run_ranks(outcome, 2, case, (3,))[0][3]["weights"]


@pytest.mark.parametrize("prefetch", [0, 2, 3])
def test_prefetch_changes_nothing(prefetch):
    base = run_ranks(outcome, 2, Case(steps=3), (3,))[0][3]["sha256"]
    assert run_ranks(outcome, 2, Case(steps=3, prefetch=prefetch), (3,))[0][3]["sha256"] == base


def test_the_losses_fall():
    losses = outcome(Case(steps=30, options={"lr": 0.02}), (3,))[3]["losses"]
    assert sum(losses[-5:]) < 0.97 * sum(losses[:5])


PRECISIONS = {
    "fp32": {},
    "bf16": BF16,
    "fp16": {"compute": torch.float16, "master": "separate"},
}
KINDS = ("none", "full", "every_k", "selective", "cpu")
CROSSED = [
    (precision, kind, (1, 3)[index % 2], (None, 0.5)[index // 2 % 2], index in (0, 3, 6, 10, 14))
    for index, (precision, kind) in enumerate((p, k) for k in KINDS for p in PRECISIONS)
]


def test_every_pair_of_choices_is_crossed():
    for a in range(5):
        for b in range(a):
            pairs = {(row[a], row[b]) for row in CROSSED}
            assert len(pairs) == len({row[a] for row in CROSSED}) * len({row[b] for row in CROSSED}), (a, b)


@pytest.mark.parametrize(("precision", "kind", "accumulation", "clip_norm", "compiles"), CROSSED)
def test_crossed(precision, kind, accumulation, clip_norm, compiles):
    # stages 0 and 1 add micro-batches first, 2 and 3 ranks first: rounding of the fp32 sums, seen through Adam
    wrap = checkpointing(kind)
    case = Case(
        steps=2,
        accumulation=accumulation,
        clip_norm=clip_norm,
        wrap=(lambda forward, index: compiled(wrap(forward, index), index)) if compiles else wrap,
        **PRECISIONS[precision],
    )
    mine = run_ranks(outcome, 2, case)[0]
    assert mine[0]["sha256"] == mine[1]["sha256"]
    assert mine[2]["sha256"] == mine[3]["sha256"]
    if accumulation == 1:
        assert mine[0]["sha256"] == mine[3]["sha256"]
    assert_close(mine[0]["weights"], mine[3]["weights"], 1e-5)
