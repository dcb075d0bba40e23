"""The engine on GPUs: NCCL, streams, compiled update, peer gathers, CUDA graphs. Two ranks where there are two GPUs."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.process import GPUS, needs_gpu
from tests.ranks import run_ranks
from tests.zero.models import batches
from tests.zero.training import Case, make_engine, outcome, train
from zerokit.zero.graph import WARMUP, CapturedStep

pytestmark = needs_gpu
WORLDS = [world for world in (1, 2) if world <= max(1, GPUS)]


def run(function, world: int, *args):
    return run_ranks(function, world, *args, backend="nccl", timeout=300)


def assert_close(a: dict, b: dict, tolerance: float) -> None:
    for name in a:
        torch.testing.assert_close(torch.tensor(a[name]), torch.tensor(b[name]), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("model", ["plain", "tied", "twice", "unused", "frozen", "nested", "table"])
def test_stages_agree(model, world):
    # two addends have one sum: bit for bit at two ranks
    case = Case(model=model, steps=5, clip_norm=1.0, cuda=True)
    results = run(outcome, world, case)
    digests = {rank[stage]["sha256"] for rank in results for stage in range(4)}
    assert len(digests) == 1


@pytest.mark.parametrize("reduce", [torch.float32, torch.bfloat16])
def test_bf16_stages_agree(reduce):
    case = Case(
        steps=5, accumulation=2, clip_norm=1.0, compute=torch.bfloat16, master="split", reduce=reduce, cuda=True
    )
    mine = run(outcome, WORLDS[-1], case)[0]
    assert mine[0]["sha256"] == mine[1]["sha256"]
    assert mine[2]["sha256"] == mine[3]["sha256"]
    assert_close(mine[0]["weights"], mine[3]["weights"], 8e-3)


def trained(case: Case, stage: int, extra: dict) -> str:
    engine = make_engine(case, stage, **extra)
    train(engine, case)
    return engine.reader.sha256()


@pytest.mark.parametrize("model", ["plain", "table"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_peer_gathers_change_nothing(stage, model):
    case = Case(model=model, steps=6, clip_norm=1.0, compute=torch.bfloat16, master="split", cuda=True)
    world = WORLDS[-1]
    assert run(trained, world, case, stage, {"peers": True}) == run(trained, world, case, stage, {})


def losses_of_graph(stage: int, captured: bool, peer: bool) -> tuple[str, list[float]]:
    case = Case(steps=WARMUP + 6, accumulation=2, clip_norm=1.0, compute=torch.bfloat16, master="split", cuda=True)
    engine = make_engine(case, stage, peers=peer)
    world, rank = engine.comm.world, engine.comm.rank

    def step(micro_batches) -> torch.Tensor:
        total = torch.zeros((), device=engine.device)
        for batch in micro_batches:
            loss = engine(*batch)
            engine.backward(loss)
            total += loss.detach()
        engine.step()
        return total

    runner = CapturedStep(engine, step) if captured else step
    losses = []
    for number, micros in enumerate(batches(case.steps, 2 * world)):
        engine.set_lr(0.01 * (number + 1))
        if number in (2, WARMUP + 2):  # an evaluation before the recording, and one between replays
            with torch.no_grad():
                losses.append(float(engine(*(t.to(engine.device) for t in micros[rank]))))
        losses.append(float(runner([tuple(t.to(engine.device) for t in micros[m * world + rank]) for m in range(2)])))
    return engine.reader.sha256(), losses


@pytest.mark.parametrize("peer", [False, True])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_cuda_graph_changes_nothing(stage, peer):
    world = WORLDS[-1]
    assert run(losses_of_graph, world, stage, True, peer) == run(losses_of_graph, world, stage, False, peer)


def steps_without_synchronisation(stage: int) -> bool:
    case = Case(steps=3, accumulation=2, clip_norm=1.0, compute=torch.bfloat16, master="split", cuda=True)
    engine = make_engine(case, stage)
    train(engine, case)
    rows = [[tuple(t.to(engine.device) for t in batch) for batch in step] for step in batches(2, 2)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in rows:
            for batch in step:
                engine.backward(engine(*batch))
            engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return True


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_step_never_waits_for_the_device(stage):
    assert all(run(steps_without_synchronisation, WORLDS[-1], stage))
