"""The mean of a loss: over all valid targets of a step, however they are divided over micro-batches and ranks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

from tests.config.arguments import config
from tests.infos import token_info
from tests.ranks import run_ranks
from tests.train.masked import (
    GLOBAL,
    HELD_OUT,
    KINDS,
    MODELS,
    composed,
    masked_trainer,
    plain_loss,
    plain_training,
    plain_twin,
    register_models,
    variant,
)
from zerokit.comm import Communicator
from zerokit.config.errors import ConfigError
from zerokit.config.schema import BatchConfig, Config
from zerokit.train.assemble import assemble
from zerokit.train.objective import Objective, weighted

TOKENS = token_info(seq_len=4, vocab_size=5)


# -- one micro-batch -------------------------------------------------------------------------------------------------


def mean_loss(outputs, targets):
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def outputs_and_targets(masked: bool):
    outputs = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([[0, 1, -100, -100], [3, -100, -100, -100]])
    return outputs, torch.full_like(targets, -100) if masked else targets


@pytest.mark.parametrize(("mean", "tokens"), [(None, 3), ("tokens", 3), ("samples", None)])
def test_the_tokens_of_a_micro_batch_are_its_valid_targets(mean, tokens):
    outputs, targets = outputs_and_targets(masked=False)
    loss, count = Objective(mean_loss, TOKENS, mean)(outputs, targets)
    assert torch.equal(loss, mean_loss(outputs, targets))
    assert count == tokens


@pytest.mark.parametrize("mean", ["tokens", "samples"])
def test_a_micro_batch_without_targets_adds_zero_whatever_the_loss_of_the_model(mean):
    def divided(outputs, targets):
        losses = F.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="none")
        return (losses / (targets != -100).sum()).sum()

    for loss in (mean_loss, divided):
        outputs, targets = outputs_and_targets(masked=True)
        assert loss(outputs, targets).isnan()
        value, tokens = Objective(loss, TOKENS, mean)(outputs, targets)
        added = value if tokens is None else value * tokens
        added.backward()
        assert added.item() == 0 and outputs.grad is not None and not outputs.grad.any()


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_data_without_tokens_have_the_mean_over_samples(task):
    info = replace(TOKENS, task=task)
    objective = Objective(lambda outputs, targets: outputs.mean(), info)
    outputs, targets = torch.ones(3, 2), torch.tensor([1, -100, 2])
    assert objective(outputs, targets) == (1, None)
    assert objective.counted(outputs, targets) == (1, 3 if task == "regression" else 2)  # of numbers none is masked
    with pytest.raises(ConfigError, match=f"loss_mean=tokens needs .* this is data for {task}"):
        Objective(mean_loss, info, "tokens")


def test_weighted_losses_add_up_to_a_mean():
    total = weighted(torch.tensor(2.0), torch.tensor(3)) + weighted(torch.tensor(6.0, requires_grad=True), 1.0)
    assert total.tolist() == [12, 4] and not total.requires_grad


# -- a training ------------------------------------------------------------------------------------------------------

TOLERANCE = {"fp32": {"rtol": 1e-4, "atol": 1e-6}, "bf16": {"rtol": 0.04, "atol": 0.01}}
TOLERANCE["fp16"] = TOLERANCE["bf16"]


@pytest.fixture(autouse=True, scope="module")
def config_of_all_tests() -> Config:
    """Composed here, before the ranks are forked."""
    return composed()


def check_training(kind: str, cfg: Config) -> None:
    """Losses, norms, weights and evaluation are those of plain PyTorch on whole batches."""
    trainer, tolerance = masked_trainer(kind, cfg), TOLERANCE[cfg.precision.name]
    twin = plain_twin(trainer, cfg)
    wanted = plain_training(twin, trainer.loader.source)
    lines = [metrics for _, metrics in trainer.fit()]
    got = [(line["train/loss"], line["train/grad_norm"]) for line in lines]
    cut = f"{kind}, accumulation {cfg.batch.accumulation}"
    message = f"{cut}: {got} for {wanted}"
    torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), **tolerance, equal_nan=True, msg=message)
    weights = trainer.engine.full_state_dict()
    for name, value in twin.named_parameters():
        torch.testing.assert_close(weights[name], value.detach(), **tolerance, msg=lambda m: f"{cut}: {m}")  # noqa: B023
    with torch.no_grad():
        held_out = plain_loss(twin, trainer.loader.source.validation(0, HELD_OUT)).item()
    assert lines[-1]["eval/loss"] == pytest.approx(held_out, rel=tolerance["rtol"], abs=tolerance["atol"]), cut


def check_trainings(model: str, stage: int, precision: str, accumulations: tuple[int, ...]) -> None:
    register_models()
    for accumulation in accumulations:
        cfg = variant(model, stage, precision, BatchConfig(global_=GLOBAL, accumulation=accumulation))
        for kind in KINDS:
            check_training(kind, cfg)


@pytest.mark.parametrize("model", MODELS)
def test_a_step_does_not_depend_on_how_the_batch_is_cut(model):
    run_ranks(check_trainings, 1, model, 2, "fp32", (1, 2, 8))


@pytest.mark.parametrize(("model", "stage"), [("chunked", 3), ("chunked", 0), ("logits", 2), ("divided", 3)])
def test_a_step_does_not_depend_on_how_the_batch_is_divided(model, stage):
    run_ranks(check_trainings, 2, model, stage, "fp32", (1, 4))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_means_over_tokens_in_half_formats(precision):
    run_ranks(check_trainings, 2, "chunked", 2, precision, (1, 4))


def losses_of_samples(accumulation: int) -> tuple[float, float]:
    """The first step's loss, and the mean of its micro-batches' means by PyTorch."""
    cfg = variant(batch=BatchConfig(global_=GLOBAL, accumulation=accumulation), loss_mean="samples", steps=1)
    trainer = masked_trainer("micro-batches", cfg)
    twin, source, micro = plain_twin(trainer, cfg), trainer.loader.source, trainer.batch.micro
    (loss,) = (metrics["train/loss"] for _, metrics in trainer.fit())
    with torch.no_grad():
        means = [plain_loss(twin, source.batch(first, micro)) for first in range(0, GLOBAL, micro)]
    return loss, torch.stack(means).mean().item()


def test_the_mean_over_samples_counts_micro_batches_alike():
    one, eight = (run_ranks(losses_of_samples, 1, accumulation)[0] for accumulation in (1, 8))
    assert one[0] == pytest.approx(one[1], rel=1e-5) and eight[0] == pytest.approx(eight[1], rel=1e-5)
    assert abs(one[0] - eight[0]) > 1  # half of the eight are without targets, and count as zero


# -- an evaluation ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_vectors() -> dict[str, Config]:
    words = ("model=mlp", "model.hidden=[8]", "data=synthetic", "data.out_features=3", f"data.held_out={HELD_OUT}")
    return {task: config(*words, f"data.task={task}") for task in ("regression", "classification")}


def evaluations(cfg: Config) -> list[float]:
    """Losses of the first 5, 12 and all 13 held-out samples, in every cut."""
    seen = []
    for samples in (5, 12, 64):
        for micro in (1, 3, 4):
            cut = replace(cfg, batch=BatchConfig(micro=micro), train=replace(cfg.train, eval_samples=samples))
            if cfg.model.name == "mlp":
                trainer = assemble(cut, Communicator(torch.device("cpu")))
            else:
                trainer = masked_trainer("samples", cut)
            seen.append(trainer.evaluate()["eval/loss"])
    return seen


@pytest.mark.parametrize("task", ["tokens", "regression", "classification"])
def test_an_evaluation_depends_neither_on_the_cut_nor_on_the_ranks(task, of_vectors):
    cfg = variant(stage=3) if task == "tokens" else replace(of_vectors[task], zero=variant(stage=3).zero)
    (alone,) = run_ranks(evaluations, 1, cfg)
    for first in range(0, 9, 3):
        assert alone[first : first + 3] == pytest.approx([alone[first]] * 3, rel=1e-5)
    assert len({round(loss, 4) for loss in alone}) == 3
    for world in (2, 3):
        for rank in run_ranks(evaluations, world, cfg):
            assert rank == pytest.approx(alone, rel=1e-5)


def graphs_of_evaluations() -> list[int]:
    """How many graphs were compiled after a step, an evaluation of whole micro-batches, one of others, and a step."""
    trainer = masked_trainer("samples", variant(stage=3, compile=True, compile_backend="eager", steps=2))
    steps, seen = trainer.fit(), []
    for action in (lambda: next(steps), trainer.evaluate, trainer.evaluate, lambda: next(steps)):
        trainer.options.eval_samples = 4 * GLOBAL if len(seen) == 2 else GLOBAL
        action()
        seen.append(counters["stats"]["unique_graphs"])
    return seen


def test_an_incomplete_micro_batch_is_not_compiled():
    ((step, whole, rest, again),) = run_ranks(graphs_of_evaluations, 1)
    assert 0 < step < whole == rest == again
