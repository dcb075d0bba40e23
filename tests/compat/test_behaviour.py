"""What DeepSpeed's own tests ask of an engine, its optimizer and its configuration."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

import zerokit.compat.deepspeed as deepspeed
from tests.compat.scripts import STAGES, Net, digest, make, micro_batches, train
from tests.ranks import run_ranks
from zerokit.compat.deepspeed.lr_schedules import LRRangeTest, OneCycle, WarmupCosineLR, WarmupLR
from zerokit.compat.deepspeed.translation import translate
from zerokit.config.errors import ConfigError


class Signs(torch.optim.Optimizer):
    """An elementwise optimizer of a script's own, which counts its steps in an int."""

    def __init__(self, params, lr=0.01, decay=0.5, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "decay": decay, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("step", 0)
                mean = state.setdefault("mean", torch.zeros_like(p))
                state["step"] += 1
                mean.mul_(group["decay"]).add_(p.grad)
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(mean.sign() * group["lr"] / state["step"])


class Late(Signs):
    """One whose first state is that after a step."""

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            steps = self.state[p].get("step", 0) + 1
            self.state[p]["step"] = steps
            p.sub_(p.grad / steps)


class Whole(torch.optim.Optimizer):
    """One that needs whole tensors."""

    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad / p.grad.norm() * self.param_groups[0]["lr"])


def losses_of(engine, steps: int = 2):
    for index, (x, y) in enumerate(micro_batches(engine, steps)):
        yield index, (engine(x) - y).square().mean()


def backwards(stage: int) -> dict:
    """The weights after two steps by each of the ways to begin a backward pass, and by sums in place of means."""
    bf16 = {"bf16": {"enabled": True}, "communication_data_type": "bf16"}
    found = {}
    for name, more in (("fp32", {}), ("once", {"gradient_accumulation_steps": 1}), ("bf16", bf16),
                       ("bf16 once", bf16 | {"gradient_accumulation_steps": 1})):  # fmt: skip
        ways = {}
        for way in ("engine", "loss", "scaled"):
            engine, *_ = make(stage, **more)
            for _, loss in losses_of(engine):
                if way == "engine":
                    engine.backward(loss)
                else:
                    (loss if way == "loss" else engine.scale(loss)).backward()
                engine.step()
            ways[way] = digest(engine)
        found[name] = len(set(ways.values()))
    return found


def counted(stage: int) -> list[float]:
    """The step's gradient of a parameter by means and by sums, in fp32 and fp16."""
    norms = []
    for more in ({}, {"fp16": {"enabled": True, "loss_scale": 64.0}}):
        for way in ("mean", "sum"):
            engine, *_ = make(stage, gradient_allreduce_op=way, gradient_accumulation_steps=1, **more)
            train(engine, 1)
            norms.append(engine.get_global_grad_norm())
    return norms


def step_both(engine, plain: torch.nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    """A step on one batch, by the engine and by PyTorch alone."""
    engine.backward(engine(x).square().mean())
    engine.step()
    plain(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def difference(engine, plain: torch.nn.Module) -> float:
    """The largest between the weights of both."""
    found = dict(engine.engine.whole_weights())
    return max(float((found[n] - p.detach()).abs().max()) for n, p in plain.named_parameters())


def changed_groups(stage: int) -> list:
    """Weights after writing learning rate and weight decay of the groups, beside torch's."""

    def groups(model):
        return [{"params": list(model.blocks.parameters())},
                {"params": [*model.norm.parameters(), *model.head.parameters()], "weight_decay": 0.3}]  # fmt: skip

    torch.manual_seed(0)
    model = Net()
    client = torch.optim.AdamW(groups(model), lr=0.01, weight_decay=0.1)
    config = {"train_micro_batch_size_per_gpu": 2, "gradient_clipping": 0, "zero_optimization": {"stage": stage}}
    engine, optimizer, *_ = deepspeed.initialize(model=model, optimizer=client, config=config)
    torch.manual_seed(0)
    plain = Net()
    other = torch.optim.AdamW(groups(plain), lr=0.01, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    for step in range(3):
        x = torch.randn(2, 12, generator=generator)  # the same on all ranks
        for kind in (optimizer, other):
            kind.param_groups[0]["weight_decay"] = 0.1 * step
            kind.param_groups[1]["lr"] = 0.01 * (step + 1)
        step_both(engine, plain, other, x)
    return [difference(engine, plain)]


def optimizer_state(stage: int) -> dict:
    """What the returned optimizer holds, and a second engine that takes it."""
    engine, optimizer, *_ = make(stage)
    assert isinstance(optimizer, torch.optim.Optimizer) and len(optimizer.state) == 0
    train(engine, 2)
    weight = engine.module.head.weight
    kept = optimizer.state_dict()
    own = optimizer.state[weight]
    found = {
        "keys": sorted(own), "shape": tuple(own["exp_avg"].shape), "count": len(optimizer.state),
        "same": torch.equal(own["exp_avg"].cpu(), kept["state"]["head.weight"]["exp_avg"]),
        "scale": (optimizer.loss_scaler.cur_scale, optimizer.dynamic_loss_scale),
    }  # fmt: skip
    train(engine, 1)
    other, second, *_ = make(stage, model=Net(), json_optimizer={"type": "Adam", "params": {"lr": 0.5}})
    second.load_state_dict(kept)
    train(other, 1)
    found["continued"] = digest(other) == digest(engine)
    with pytest.raises(ConfigError, match="of other parameters"):
        second.load_state_dict({**kept, "state": {"x": {}}})
    return found


def own_optimizer(stage: int) -> list:
    asked = {"zero_allow_untested_optimizer": 1}
    torch.manual_seed(0)
    plain = Net()
    other = Signs(plain.parameters(), weight_decay=0.1)
    engine, *_ = make(stage, lambda p: Signs(p, weight_decay=0.1), gradient_accumulation_steps=1, **asked)
    for _ in range(3):
        step_both(engine, plain, other, torch.ones(2, 12))
    error = difference(engine, plain)
    told = []
    for kind, more in ((Whole, asked), (Late, asked), (Signs, {})):
        try:
            make(stage, kind, **more)
            told.append("")
        except ConfigError as problem:
            told.append(str(problem))
    return [error, *told]


def unchecked(stage: int) -> list:
    """Whether a step with an infinite loss was taken: asked for, and by default."""
    found = []
    for more in ({}, {"check_grad_overflow": False}):
        engine, *_ = make(stage, gradient_accumulation_steps=1, bf16={"enabled": True, **more})
        for _, loss in losses_of(engine, 1):
            engine.backward(loss * float("inf"))
            engine.step()
        finite = all(bool(value.isfinite().all()) for _, value in engine.engine.whole_weights())
        found.append((engine.was_step_applied(), finite))
    return found


FORMATS = ({"communication_data_type": "bf16"}, {"data_types": {"grad_accum_dtype": "fp16"}},
           {"bf16": {"enabled": True}, "communication_data_type": "fp16"},
           {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp16"}})  # fmt: skip


def other_formats(stage: int) -> list:
    found = []
    for more in FORMATS:
        engine, *_ = make(stage, **more)
        dtypes = engine.engine.storage.dtypes
        losses = train(engine, 20)
        found.append((sum(losses[-8:]) < 0.7 * sum(losses[:8]), str(dtypes.wire), str(dtypes.gradient)))
    return found


def test_an_engine_and_its_optimizer_do_what_deepspeeds_do():
    def run() -> list:
        deepspeed.init_distributed()
        parts = (backwards, counted, changed_groups, optimizer_state, own_optimizer, unchecked, other_formats)
        return [[part(stage) for part in parts] for stage in STAGES]

    for rank in run_ranks(run, 2):
        for ways, norms, groups, state, own, finite, formats in rank:
            assert ways == {"fp32": 1, "once": 1, "bf16": 1, "bf16 once": 1}
            assert norms[1] == pytest.approx(2 * norms[0]) and norms[3] == pytest.approx(2 * norms[2])
            assert groups[0] < 1e-6
            assert state == {"keys": ["exp_avg", "exp_avg_sq", "step"], "shape": (1, 12), "count": 8, "same": True,
                             "scale": (1.0, False), "continued": True}  # fmt: skip
            error, whole, late, unasked = own
            assert "takes another first step" in late
            assert error < 1e-6 and "does not move each element on its own" in whole
            assert "nothing says whether it can work on shards" in unasked or unasked == ""
            assert finite == [(False, True), (True, False)]
            assert [fell for fell, _, _ in formats] == [True] * 4
            assert [wire for _, wire, _ in formats] == ["torch.bfloat16", "torch.float32", "torch.float16",
                                                       "torch.float32"]  # fmt: skip
            assert [kept for _, _, kept in formats] == ["torch.float32", "torch.float16", "torch.float32",
                                                       "torch.float16"]  # fmt: skip


def test_several_engines_in_one_loss():
    first, *_ = make(3, gradient_accumulation_steps=1)
    second, *_ = make(2, model=Net(), gradient_accumulation_steps=1)
    before = digest(first), digest(second)
    x = torch.ones(2, 12)
    (first(x).square().mean() + second(x).square().mean()).backward()
    first.step()
    second.step()
    assert digest(first) != before[0] and digest(second) != before[1]


def test_misuse_is_deepspeeds_assertion_error():
    engine, *_ = make(1)
    with engine.no_sync():
        for call in (engine.step, lambda: engine.no_sync().__enter__()):
            with pytest.raises(AssertionError, match="no_sync"):
                call()
    with pytest.raises(AssertionError, match="initialize\\(model=...\\) is missing"):
        deepspeed.initialize(config={"train_batch_size": 1})
    with pytest.raises(AssertionError, match="expects a scalar loss, got shape \\(2,\\)"):
        engine.backward(torch.ones(2, requires_grad=True))
    unmanaged, *_ = make(0, managed_gradient_accumulation=False)
    with pytest.raises(AssertionError, match="every step\\(\\) is the boundary"):
        unmanaged.set_gradient_accumulation_boundary(True)
    idle, *_ = deepspeed.initialize(model=Net(), config={"train_batch_size": 2})
    for call in (idle.scale, idle.backward):
        with pytest.raises(AssertionError, match="needs an optimizer"):
            call(idle(torch.ones(1, 12)).sum())


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        ({"zero_allow_untested_optimizer": 1}, "zero_allow_untested_optimizer", True),
        ({"dump_state": "true"}, "dump_state", True),
        ({"fp16": {"enabled": 0}}, "precision", "fp32"),
        ({"bf16": {"enabled": 1}}, "precision", "bf16"),
        ({"gradient_clipping": "0.5"}, "train.clip_norm", 0.5),
        ({"train_batch_size": "8"}, "batch.global", 8),
        ({"train_batch_size": 8.0}, "batch.global", 8),
        ({"zero_optimization": {"stage": "2"}}, "zero", "stage2"),
        ({"zero_optimization": {"stage": 3.0}}, "zero", "stage3"),
        ({"optimizer": {"type": "Adam", "torch_adam": True, "params": {"lr": "1e-4"}}}, "optimizer.lr", 1e-4),
        ({"optimizer": {"type": "Adam", "params": {"betas": ["0.8", "0.9"]}}}, "optimizer.beta1", 0.8),
        ({"gradient_allreduce_op": "sum"}, "gradient_allreduce_op", "sum"),
    ],
)
def test_values_as_people_write_them(config, key, value):
    translation = translate(config)
    assert (translation.settings | translation.script)[key] == value


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"train_batch_size": "eight"}, "train_batch_size: expected a whole number"),
        ({"train_batch_size": 8.5}, "train_batch_size: expected a whole number"),
        ({"dump_state": 2}, "dump_state: expected true or false"),
        ({"gradient_allreduce_op": "max"}, "gradient_allreduce_op: expected one of mean, sum"),
        ({"checkpoint": {"tag_validation": "never"}}, "checkpoint.tag_validation: expected one of ignore, warn, fail"),
    ],
)
def test_values_that_mean_nothing_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        translate(config)


def tags(folder: str) -> list:
    found = []
    for mode in ("Ignore", "WARN", "fail"):
        engine, *_ = make(1, checkpoint={"tag_validation": mode})
        try:
            found.append(engine.save_checkpoint(folder, f"{mode}{dist.get_rank()}"))
        except AssertionError as error:
            found.append(str(error))
    return found


def test_tags_of_the_ranks_are_compared(tmp_path):
    for ignored, warned, failed in run_ranks(tags, 2, str(tmp_path)):
        assert ignored is warned is True and "rank 1 saves 'fail1', rank 0 'fail0'" in failed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Ignore0", "WARN0", "latest"]


def test_fields_of_schedulers():
    def optimizer(*rates):
        return torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])

    warm = WarmupLR(optimizer(0.1, 0.2), warmup_num_steps=4, warmup_type="linear")
    assert (warm.min_lrs, warm.max_lrs, warm.warmup_type) == ([0.0, 0.0], [0.1, 0.2], "linear")
    cycle = OneCycle(optimizer(0.1), 0.1, 0.5, cycle_first_step_size=3)
    assert (cycle.min_lrs, cycle.max_lrs, cycle.first_step_size, len(cycle.get_mom())) == ([0.1], [0.5], 3, 1)
    assert LRRangeTest(optimizer(0.1), 0.01).min_lr == [0.01]
    assert WarmupCosineLR(optimizer(0.1), 10, cos_min_ratio=0.25).cos_min_ratio == 0.25
    later = WarmupLR(optimizer(0.1), warmup_num_steps=4, warmup_type="linear", last_batch_iteration=1)
    with pytest.raises(AssertionError, match="call step"):
        later.get_last_lr()
    later.step()
    assert later.get_last_lr() == [0.05] and later.last_batch_iteration == 2
    rate = torch.tensor(0.1)
    kept = torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate}])
    moved = WarmupLR(kept, 0.0, 0.1, 2, "linear")
    moved.step()
    moved.step()
    assert kept.param_groups[0]["lr"] is rate and float(rate) == pytest.approx(0.05)
