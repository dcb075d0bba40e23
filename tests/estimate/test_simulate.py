"""Predictions against the engine itself: forked gloo ranks for small worlds, a fake process group for large ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.config.arguments import config
from tests.ranks import run_ranks
from zerokit.comm import Communicator
from zerokit.config.batch import resolve_batch
from zerokit.config.errors import ConfigError
from zerokit.estimate.simulate import Simulator
from zerokit.record.hardware import ENTRIES
from zerokit.train.assemble import assemble, build_engine, build_model
from zerokit.zero.engine import Engine

SMALL = ("model.dim=48", "model.layers=2", "model.heads=4", "data=synthetic", "data.seq_len=32", "zero.min_unit=1000")
PRECISIONS = {
    "fp32": ("precision=fp32",),
    "bf16": ("precision=bf16",),
    "separate": ("precision=bf16", "precision.master=separate", "precision.reduce_dtype=bf16"),
    "fp16": ("precision=fp16",),
}


def of_stage(cfg, stage: int):
    return dataclasses.replace(cfg, zero=dataclasses.replace(cfg.zero, stage=stage))


def composed(*words: str):
    return config(*SMALL, "batch.global=null", "batch.micro=2", *words)


def measured(cfg, stages=range(4)) -> list[tuple]:
    """Storage, calls and bytes of the third step of every stage, as a real rank has them."""
    found = []
    for stage in stages:
        comm = Communicator(torch.device("cpu"))
        trainer = assemble(of_stage(cfg, stage), comm)
        steps = trainer.fit()
        next(steps)
        next(steps)
        comm.reset_counters()
        next(steps)
        comm.calls.pop("metrics", None)
        found.append(
            (trainer.engine.memory(), dict(comm.calls), {k: v for k, v in comm.traffic.items() if k in comm.calls})
        )
    return found


@pytest.mark.parametrize(
    ("precision", "world"), [("fp32", 1), ("fp32", 3), ("bf16", 2), ("bf16", 4), ("separate", 3), ("fp16", 2)]
)
def test_storage_and_communication_are_those_of_the_engine(precision, world):
    words = ("train.eval_samples=0", "train.log_every=100", "train.steps=5", "batch.accumulation=2")
    cfg = composed(*PRECISIONS[precision], *words)
    ranks = run_ranks(measured, world, cfg)
    simulator = Simulator(cfg, ENTRIES["cpu"])
    for stage in range(4):
        predicted = simulator.predict(of_stage(cfg, stage), world)
        for rank in ranks:
            memory, calls, traffic = rank[stage]
            assert predicted.storage == memory
            assert predicted.calls == calls
            assert predicted.traffic == traffic


@pytest.mark.parametrize(
    ("optimizer", "kinds"),
    [
        (("muon",), {"all_reduce", "norm", "all_to_all", "all_gather"}),
        (("adafactor",), {"all_reduce", "norm", "optimizer"}),
        (("onebit_adam", "optimizer.freeze_step=1"), {"norm", "all_to_all", "all_gather"}),
        (("onebit_adam", "optimizer.freeze_step=5"), {"norm", "all_reduce"}),
    ],
)
def test_every_kind_of_traffic_is_predicted(optimizer, kinds):
    words = (
        "train.eval_samples=0",
        "train.log_every=100",
        "train.steps=5",
        "zero=stage0",
        f"optimizer={optimizer[0]}",
        *optimizer[1:],
    )
    cfg = composed(*words)
    first, _ = run_ranks(measured, 2, cfg, (0, 1))
    for stage, (_, calls, traffic) in enumerate(first):
        predicted = Simulator(cfg, ENTRIES["cpu"]).predict(of_stage(cfg, stage), 2)
        assert (predicted.calls, predicted.traffic) == (calls, traffic)
        assert stage or set(calls) == kinds
        reduced = {"all_reduce", "norm", "optimizer"}
        assert predicted.sent_bytes == sum(n * (1 if kind in reduced else 0.5) for kind, n in traffic.items())


def test_the_memory_of_muon_does_not_grow_with_the_ranks_that_hold_all():
    cfg = composed("model.dim=256", "train.eval_samples=0", "optimizer=muon")
    simulator = Simulator(cfg, ENTRIES["cpu"])
    few, many = (simulator.predict(of_stage(cfg, 0), world).peak for world in (4, 256))
    assert many < 1.1 * few


@pytest.mark.parametrize("world", [64, 1024])
@pytest.mark.parametrize("stage", range(4))
def test_storage_on_many_ranks(stage, world):
    cfg = of_stage(composed("precision=bf16"), stage)
    predicted = Simulator(cfg, ENTRIES["cpu"]).predict(cfg, world)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        comm = Communicator(torch.device("cpu"))
        info = Simulator(cfg, ENTRIES["cpu"])._source.info
        engine = build_engine(build_model(cfg, info), cfg, comm, resolve_batch(cfg.batch, world).accumulation)
        assert predicted.storage == engine.memory()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("states", ["group", "all"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_storage_of_groups_of_ranks(stage, states):
    cfg = of_stage(composed("precision=bf16", "zero.shard_size=8", f"zero.states={states}"), stage)
    predicted = Simulator(cfg, ENTRIES["cpu"]).predict(cfg, 64)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=64)
    try:
        comm = Communicator(torch.device("cpu"), shard_size=8)
        info = Simulator(cfg, ENTRIES["cpu"])._source.info
        engine = build_engine(build_model(cfg, info), cfg, comm, resolve_batch(cfg.batch, 64).accumulation)
        assert predicted.storage == engine.memory()
    finally:
        dist.destroy_process_group()


def test_what_travels_between_groups_is_counted_and_slow():
    cfg = of_stage(composed("precision=bf16", "zero.shard_size=host", "zero.states=all"), 3)
    simulator = Simulator(cfg, ENTRIES["h100_ib400"])
    one, two = (simulator.predict(cfg, world) for world in (8, 16))
    assert one.group == two.group == 8
    assert not [kind for kind in one.traffic if kind.startswith("outer")]
    # Weights of 2 bytes an element are divided by 8, the 2 bytes that complete them to masters by 16.
    assert 3 * two.traffic["outer_all_gather"] == 2 * two.storage["parameters"]
    rings = {"all_gather": 7 / 8, "reduce_scatter": 7 / 8, "outer_all_gather": 1 / 2, "outer_reduce_scatter": 1 / 2,
             "norm": 2 * 15 / 16, "row_reads": 7 / 8, "row_sums": 7 / 8}  # fmt: skip
    assert two.sent_bytes == sum(rings[kind] * count for kind, count in two.traffic.items())


def test_what_lies_in_arenas_is_counted_by_kind():
    cfg = of_stage(composed("precision=bf16", "precision.reduce_dtype=bf16"), 3)
    predicted = Simulator(cfg, ENTRIES["cpu"]).predict(cfg, 4)
    memory, storage = predicted.memory, predicted.storage

    def rounded(kinds: tuple[str, ...], expected: int, arenas: int) -> bool:
        return 0 <= sum(memory[kind] for kind in kinds) - expected <= 512 * arenas

    assert rounded(("master", "weights"), storage["parameters"], 40)  # and the model's own buffers
    assert rounded(("gradients",), storage["gradients"], 10)
    assert rounded(("optimizer",), storage["optimizer"], 2)
    assert rounded(("gather buffers", "reduce buffers"), storage["buffers"], 20)
    assert predicted.peak == sum(memory.values()) > sum(storage.values())


def activations(*words: str, micro: int = 2) -> int:
    cfg = composed(*words, f"batch.micro={micro}")
    return Simulator(cfg, ENTRIES["cpu"]).predict(cfg, 2).memory["activations"]


def test_policies_keep_less_and_batches_more():
    kept = {name: activations(f"checkpointing={name}") for name in ("none", "every_k", "selective", "full")}
    assert kept["none"] > kept["selective"] > kept["full"]
    assert kept["none"] > kept["every_k"] > kept["full"]
    assert activations(micro=8) == pytest.approx(4 * activations(micro=2), rel=0.02)
    assert activations("checkpointing=cpu", "checkpointing.min_bytes=0") < 0.7 * kept["none"]


def test_micro_batches_between_the_first_and_the_last_cost_the_same():
    def step(accumulation: int):
        cfg = of_stage(composed(f"batch.accumulation={accumulation}"), 3)
        return Simulator(cfg, ENTRIES["cpu"]).predict(cfg, 2)

    three, four, nine = step(3), step(4), step(9)
    assert nine.calls["reduce_scatter"] == 3 * three.calls["reduce_scatter"]
    assert nine.seconds - four.seconds == pytest.approx(5 * (four.seconds - three.seconds))
    assert nine.memory == three.memory


def test_a_model_that_needs_values_is_refused_in_one_line():
    cfg = composed()
    simulator = Simulator(cfg, ENTRIES["cpu"])

    def fails(*_, **__):
        raise RuntimeError("Tensor.item() cannot be called on meta tensors\nand more")

    before, Engine.__call__ = Engine.__call__, fails
    try:
        with pytest.raises(ConfigError, match="nothing is predicted: Tensor.item") as error:
            simulator.predict(cfg, 2)
    finally:
        Engine.__call__ = before
    assert "\n" not in str(error.value)


def test_the_host_limits_small_steps_that_are_not_recorded():
    def step(*words: str):
        cfg = composed("precision=bf16", "zero=stage3", *words)
        return Simulator(cfg, ENTRIES["h100_ib400"]).predict(cfg, 2)

    issued, eager, recorded = step(), step("train.compile=false"), step("train.cuda_graph=true")
    assert issued.bound()[0] == eager.bound()[0] == "issuing kernels" != recorded.bound()[0]
    assert recorded.seconds == pytest.approx(issued.seconds - issued.busy["issuing kernels"])
    assert recorded.seconds < issued.seconds / 3
    assert issued.recordable and not step("checkpointing=cpu").recordable
    assert not step("zero=stage1", "optimizer=onebit_adam").recordable
    large = step("data.seq_len=1024", "batch.micro=96", "model.dim=1024", "model.heads=8")
    assert large.busy["issuing kernels"] == 0 and large.bound()[0] in ("products", "memory")
