"""Collectives per step and bytes per rank are those of the stage's formula: for real at 2 ranks, and as one of 64."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from tests.ranks import run_ranks
from tests.zero.training import Case, make_engine, train

DEPTH = 3
KINDS = ("all_gather", "reduce_scatter", "all_reduce")


class CollectiveCounter(TorchDispatchMode):
    """Counts the collectives that torch really issues."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.namespace == "c10d"
        return function(*args, **(kwargs or {}))


def as_one_of(world: int, function, *args):
    """What `function(*args)` returns on rank 0 of a fake group: collectives do nothing, values are wrong by design."""

    def worker(pipe) -> None:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
        pipe.send(function(*args))

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=worker, args=(sender,))
    process.start()
    sender.close()  # so that a failure ends the wait
    assert receiver.poll(60)
    result = receiver.recv()
    process.join()
    return result


def measure(stage: int, case: Case) -> dict:
    """Counts and bytes of one step after the first, and what formula and storage say."""
    engine = make_engine(case, stage)
    one = Case(**{**case.__dict__, "steps": 1})
    train(engine, one)
    engine.comm.reset_counters()
    with CollectiveCounter() as counter:
        train(engine, one)
    return {
        "calls": dict(engine.comm.calls),
        "traffic": dict(engine.comm.traffic),
        "by_torch": counter.count,
        "memory": engine.memory(),
        "formula": engine.memory_at(engine.declared),
        "arenas": {
            "parameters": _bytes(engine.storage.weights) + _bytes(engine.storage.extra),
            "gradients": sum(_bytes(gradient) for gradient in engine.storage.gradients),
            "optimizer": sum(_bytes(t) for t in engine.storage.states.arenas.values()),
        },
        "totals": [(unit.kind, unit.layout.total) for unit in engine.units],
    }


def _bytes(tensor) -> int:
    return 0 if tensor is None else tensor.untyped_storage().nbytes()


def expected_calls(stage: int, micros: int) -> dict[str, int]:
    """Per step, for a root unit and DEPTH blocks in two slots.

    Stage 3 gathers every block before forward but the two last ones not again before backward, whose first two blocks
    are there again for the next micro-batch; the root is gathered once.
    """
    units = DEPTH + 1
    gathers = micros * (2 * DEPTH - 2) - (micros - 1) * 2 + 1
    return {
        0: {"all_reduce": units},
        1: {"reduce_scatter": units, "all_gather": units},
        2: {"reduce_scatter": units * micros, "all_gather": units},
        3: {"reduce_scatter": units * micros, "all_gather": gathers},
    }[stage]


def expected_bytes(stage: int, micros: int, totals: list[tuple[str, int]]) -> dict[str, int]:
    """Per step, of whole fp32 buffers. At stage 3 the first micro-batch gathers everything and, in backward, the first
    block again; a later one finds all but the last block in forward and all but the first in backward."""
    whole = 4 * sum(total for _, total in totals)
    blocks = [4 * total for kind, total in totals if kind == "block"]
    return {
        0: {"all_reduce": whole},
        1: {"reduce_scatter": whole, "all_gather": whole},
        2: {"reduce_scatter": whole * micros, "all_gather": whole},
        3: {
            "reduce_scatter": whole * micros,
            "all_gather": whole + blocks[0] + (micros - 1) * (blocks[-1] + blocks[0]),
        },
    }[stage]


@pytest.mark.parametrize("world", [2, 64])
@pytest.mark.parametrize("micros", [1, 3])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_collectives_and_storage(stage, micros, world):
    case = Case(accumulation=micros)
    run = as_one_of if world > 2 else lambda world, *args: run_ranks(*args[:1], world, *args[1:])[0]
    found = run(world, measure, stage, case)
    calls = {kind: count for kind, count in found["calls"].items() if kind in KINDS}
    assert calls == expected_calls(stage, micros)
    assert found["calls"]["norm"] == 1
    assert found["by_torch"] == sum(found["calls"].values())
    whole = sum(total for _, total in found["totals"]) * 4
    assert {kind: found["traffic"][kind] for kind in calls} == expected_bytes(stage, micros, found["totals"])
    assert found["arenas"] == found["formula"] == {k: found["memory"][k] for k in found["formula"]}
    share = [1, world]
    assert found["arenas"]["parameters"] == whole // share[stage == 3]
    assert found["arenas"]["gradients"] == whole // share[stage >= 2]
    assert found["arenas"]["optimizer"] == 2 * whole // share[stage >= 1]


def test_bf16_storage_of_one_of_64_ranks():
    case = Case(compute=torch.bfloat16, master="split", accumulation=2)
    found = as_one_of(64, measure, 3, case)
    elements = sum(total for _, total in found["totals"]) // 64
    assert found["arenas"] == {"parameters": elements * 4, "gradients": elements * 4, "optimizer": elements * 8}


def test_slots_do_not_grow_with_the_number_of_blocks():
    found = as_one_of(64, measure, 3, Case())
    blocks = [total for kind, total in found["totals"] if kind == "block"]
    root = sum(total for kind, total in found["totals"] if kind == "root")
    weights = 2 * max(blocks) + root
    gradients = 2 * max(blocks) + root
    assert found["memory"]["buffers"] == 4 * (weights + gradients)
