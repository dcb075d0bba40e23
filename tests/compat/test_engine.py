"""The engine as a script sees it, at every stage on one and two ranks."""

from __future__ import annotations

import math

import pytest
import torch

import zerokit.compat.deepspeed as deepspeed
from tests.compat.scripts import FORMATS, Net, digest, make, micro_batches, on_all_stages, train
from tests.ranks import run_ranks
from zerokit.config.errors import ConfigError

worlds = pytest.mark.parametrize("world", [1, 2])


def reference(world: int, steps: int) -> dict[str, torch.Tensor]:
    """Weights of plain PyTorch training on the samples of all ranks, AdamW as DeepSpeed's Adam is."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.cat([torch.randn(2, 12, generator=generator) for _ in range(2 * world)])
        (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.named_parameters())


def trained(stage: int) -> dict:
    engine, *_ = make(stage)
    train(engine, 3)
    weights = reference(engine.world_size, 3)
    error = max((value - weights[name]).abs().max().item() for name, value in engine.engine.whole_weights())
    return {"digest": digest(engine), "error": error, "steps": (engine.global_steps, engine.micro_steps)}


@worlds
def test_trains_as_plain_pytorch_does(world):
    results = on_all_stages(trained, world)
    assert all(r["error"] < 1e-5 and r["steps"] == (3, 6) for r in results)
    assert len({r["digest"] for r in results[:2]}) == 1  # stages 0 and 1, and 2 and 3, add in the same order
    assert len({r["digest"] for r in results[2:4]}) == 1


def boundary_calls(stage: int) -> dict:
    engine, optimizer, *_ = make(stage)
    seen = []
    for x, y in micro_batches(engine, 2):
        before = digest(engine)
        loss = (engine(x) - y).square().mean()
        at_boundary = engine.is_gradient_accumulation_boundary()
        returned = engine.backward(loss)
        engine.step()
        seen.append((at_boundary, digest(engine) != before, engine.was_step_applied(), engine.micro_steps))
        assert torch.equal(returned, loss / 2)
        optimizer.step()  # the loops of accelerate and Hugging Face call these, to no effect
        optimizer.zero_grad()
    return {"seen": seen, "norm": engine.get_global_grad_norm(), "overflow": optimizer.overflow}


@worlds
def test_step_acts_at_the_boundary(world):
    for result in on_all_stages(boundary_calls, world):
        no, yes = (False, False, False), (True, True, True)
        assert result["seen"] == [(*no, 1), (*yes, 2), (*no, 3), (*yes, 4)]
        assert result["norm"] > 0 and result["overflow"] is False


def several_ways(stage: int) -> set[str]:
    """Two micro-batches in one step, however the script says that the second is the last."""
    digests = set()

    def both(engine) -> tuple:
        return tuple((engine(x) - y).square().mean() for x, y in list(micro_batches(engine, 1)))

    engine, *_ = make(stage)
    train(engine, 1)
    digests.add(digest(engine))
    engine, *_ = make(stage)  # accelerate
    for loss, last in zip(both(engine), (False, True), strict=True):
        engine.set_gradient_accumulation_boundary(is_boundary=last)
        engine.backward(loss)
        if last:
            engine.step()
    digests.add(digest(engine))
    engine, *_ = make(stage, gradient_accumulation_steps=1)
    first, second = both(engine)
    with engine.no_sync():
        engine.backward(first / 2)
    engine.backward(second / 2)
    engine.step()
    digests.add(digest(engine))
    engine, *_ = make(stage, managed_gradient_accumulation=False)
    for loss in both(engine):
        engine.backward(loss)
    engine.step()
    digests.add(digest(engine))
    engine, *_ = make(stage)
    for loss in both(engine):
        engine.backward(loss / 2, scale_wrt_gas=False)
        engine.step()
    digests.add(digest(engine))
    return digests


@worlds
def test_every_way_of_accumulating_gives_the_same_bits(world):
    assert [len(digests) for digests in on_all_stages(several_ways, world)] == [1] * 4 * world


def test_no_sync_is_checked():
    engine, *_ = make(2)
    with engine.no_sync():
        with pytest.raises(RuntimeError, match=r"step\(\) inside engine.no_sync"):
            engine.step()
        with pytest.raises(RuntimeError, match="inside engine.no_sync"), engine.no_sync():
            pass


def overflowing(stage: int) -> dict:
    """Three steps in fp16, the second with an infinite loss on the last rank alone."""
    engine, _, _, scheduler = make(
        stage,
        gradient_accumulation_steps=1,
        fp16={"enabled": True, "initial_scale_power": 4, "hysteresis": 1},
        scheduler={"type": "WarmupLR", "params": {"warmup_num_steps": 10, "warmup_type": "linear"}},
    )
    seen = []
    for number, (x, y) in enumerate(micro_batches(engine, 3, count=1)):
        loss = (engine(x) - y).square().mean()
        bad = number == 1 and engine.global_rank == engine.world_size - 1
        engine.backward(loss * float("inf") if bad else loss)
        engine.step()
        seen.append((engine.was_step_applied(), engine.overflow, engine.skipped_steps, engine.loss_scale))
        seen.append(scheduler.last_batch_iteration)
    return {"seen": seen, "lr": engine.get_lr(), "norm": math.isfinite(engine.get_global_grad_norm())}


@worlds
def test_an_overflow_skips_the_step_and_the_scheduler(world):
    expected = [(True, False, 0, 16.0), 0, (False, True, 1, 8.0), 0, (True, False, 1, 8.0), 1]
    for result in on_all_stages(overflowing, world):
        assert result == {"seen": expected, "lr": [0.001], "norm": True}  # a tenth of the optimizer's 0.01


def facts(stage: int) -> list:
    engine, *_ = make(stage, gradient_clipping=0.25, bf16={"enabled": True})
    train(engine, 1)
    world = engine.world_size
    assert engine.seen.tolist() == [0.0, 0.0]  # falls through to the model
    with pytest.raises(AttributeError, match="Neither the engine nor its Net has 'sene'"):
        _ = engine.sene
    assert isinstance(engine.module, Net) and engine.training and not engine.eval().training
    return [
        engine.train_batch_size() == 4 * world, engine.train_micro_batch_size_per_gpu(),
        engine.gradient_accumulation_steps(), engine.global_samples == 4 * world, engine.skipped_steps,
        engine.device.type, engine.gradient_clipping(), engine.bfloat16_enabled(), engine.fp16_enabled(),
        engine.zero_optimization_stage() == stage, engine.zero_optimization_partition_weights() == (stage == 3),
        engine.config["bf16"]["enabled"], engine.get_mom(), engine.loss_scale, engine.local_rank,
        next(engine.parameters()).dtype is torch.bfloat16,
    ]  # fmt: skip


@worlds
def test_properties(world):
    expected = [True, 2, 2, True, 0, "cpu", 0.25, True, False, True, True, True, [(0.9, 0.999)], 1.0, 0, True]
    assert on_all_stages(facts, world) == [expected] * 4 * world


def test_zero_grad_between_micro_batches_drops_them_and_says_so(caplog):
    engine, *_ = make(1)
    fresh = digest(engine)
    deepspeed.logger.addHandler(caplog.handler)
    x, y = next(micro_batches(engine, 1))
    engine.backward((engine(x) - y).square().mean())
    engine.zero_grad()
    deepspeed.logger.removeHandler(caplog.handler)
    assert "drops the gradients of 1 micro-batches" in caplog.text
    assert digest(engine) == fresh and engine.engine.micro_batches == 0


def test_a_batch_size_can_change():
    engine, *_ = make(0)
    train(engine, 1)
    engine.set_train_batch_size(6)
    assert (engine.train_batch_size(), engine.gradient_accumulation_steps()) == (6, 3)
    boundaries = []
    for x, y in micro_batches(engine, 3, count=1):
        engine.backward((engine(x) - y).square().mean())
        boundaries.append(engine.is_gradient_accumulation_boundary())
        engine.step()
    assert boundaries == [False, False, True] and engine.global_steps == 2
    with pytest.raises(ConfigError, match="cannot be divided"):
        engine.set_train_batch_size(7)


@pytest.mark.parametrize("precision", FORMATS)
def test_losses_fall_in_every_format(precision):
    def run(stage: int) -> list[float]:
        engine, *_ = make(stage, **FORMATS[precision])
        return train(engine, 30)

    for stage in (0, 3):
        losses = run_ranks(run, 2, stage)[0]
        assert sum(losses[-6:]) < 0.5 * sum(losses[:6])


def test_without_an_optimizer_it_evaluates():
    engine, optimizer, loader, scheduler = deepspeed.initialize(model=Net(), config={"train_batch_size": 2})
    assert (optimizer, loader, scheduler) == (None, None, None)
    loss = engine(torch.ones(2, 12)).mean()
    with pytest.raises(RuntimeError, match="needs an optimizer"):
        engine.backward(loss)
    assert engine.engine.memory()["optimizer"] == 0


def test_activation_checkpointing_in_the_json_really_checkpoints():
    runs = []

    class Counting(Net):
        def __init__(self):
            super().__init__()
            self.blocks[0].register_forward_hook(lambda *_: runs.append(1))
            self.blocks[0][0].register_forward_hook(lambda *_: runs.append("again"))

    digests = []
    for section in ({}, {"activation_checkpointing": {"partition_activations": True}}):
        torch.manual_seed(0)
        engine, *_ = make(2, model=Counting(), **section)
        runs.clear()
        train(engine, 1)
        digests.append((digest(engine), runs.count("again")))
    (plain, once), (checkpointed, twice) = digests
    assert plain == checkpointed and (once, twice) == (2, 4)


def test_bf16_gradients_accumulate_in_fp32_unless_the_json_asks_otherwise():
    engine, *_ = make(1, bf16={"enabled": True})
    assert engine.engine.storage.dtypes.gradient is torch.float32
    engine, *_ = make(1, bf16={"enabled": True}, data_types={"grad_accum_dtype": "bf16"},
                      communication_data_type="bf16")  # fmt: skip
    assert engine.engine.storage.dtypes.gradient is torch.bfloat16


def test_compile_compiles_the_blocks():
    engine, *_ = make(3)
    seen = []

    def backend(graph, _inputs):
        seen.append(graph)
        return graph.forward

    assert not engine.is_compiled
    engine.compile(backend=backend)
    plain, *_ = make(3)
    assert train(engine, 1) == train(plain, 1)
    assert seen and engine.is_compiled
