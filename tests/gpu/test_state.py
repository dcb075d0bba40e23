"""States on GPUs: copied to the host beside the training, without waiting, and read at any stage."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from tests.gpu.process import WORLD, needs_gpu
from tests.ranks import run_ranks
from tests.zero.models import batches
from tests.zero.training import Case, make_engine, train
from zerokit.comm.exchange import Exchange
from zerokit.state.rankfile import RankFile
from zerokit.state.save import save_state
from zerokit.state.snapshot import HostCopy
from zerokit.zero.engine import Engine
from zerokit.zero.graph import WARMUP, CapturedStep

pytestmark = needs_gpu


def run(function, *args, world: int = WORLD):
    return run_ranks(function, world, *args, backend="nccl", timeout=300)


def values(engine: Engine) -> dict[str, str]:
    """Everything this rank would save, as texts that tell every value apart."""
    engine.state.refresh()
    torch.cuda.synchronize()
    return {f"{p.name}[{p.start}]": str([c.tolist() for _, c in p.chunks()]) for p in engine.state.pieces() if len(p)}


def case(**options) -> Case:
    return Case(clip_norm=1.0, compute=torch.bfloat16, master="split", cuda=True, **options)


def saved_and_loaded(folder: Path, stage: int, peers: bool) -> list[bool]:
    first = make_engine(case(), stage, peers=peers)
    train(first, case(steps=3))
    expected = values(first)
    first.save(folder / f"s{stage}{peers}", user=[1])
    same = []
    train(first, case(steps=2))
    for target in range(4):
        other = make_engine(case(), target, peers=peers)
        assert other.load(folder / f"s{stage}{peers}") == [1]
        if target == stage:
            same.append(values(other) == expected)
        train(other, case(steps=2))
        same.append(other.reader.sha256() == first.reader.sha256())
    return same


@pytest.mark.parametrize("peers", [False, True])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_state_is_read_at_any_stage_and_goes_on_bit_for_bit(stage, peers, tmp_path):
    assert all(all(same) for same in run(saved_and_loaded, tmp_path, stage, peers))


def copied_beside(stage: int, captured: bool) -> list:
    """Take a copy without waiting, train on at once, write the copy, and compare it with the state of that step."""
    some = case(steps=1, accumulation=2)
    engine, twin = make_engine(some, stage), make_engine(some, stage)
    world, rank = engine.comm.world, engine.comm.rank
    micros = [
        tuple(t.to(engine.device) for t in batches(1, 2 * world)[0][m * world + rank]) for m in range(2)
    ]  # fmt: skip

    def stepper(which: Engine):
        def step(rows):
            total = torch.zeros((), device=which.device)
            for row in rows:
                loss = which(*row)
                which.backward(loss)
                total += loss.detach()
            which.step()
            return total

        return CapturedStep(which, step) if captured else step

    steps = {engine: stepper(engine), twin: stepper(twin)}
    for number in range(WARMUP + 3):
        for which, step in steps.items():
            which.set_lr(0.01 * (number + 1))
            step(micros)
    expected = values(twin)
    file = RankFile(engine.state.pieces())
    copy, exchange = HostCopy(file, engine.device), Exchange()
    big = torch.randn(4096, 4096, device=engine.device)
    for _ in range(20):  # the device is busy when the copy is asked for
        big = big @ big / 64
    engine.state.refresh()
    torch.cuda.set_sync_debug_mode("error")
    try:
        copy.take(engine.comm)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for _ in range(5):
        steps[engine](micros)
    copy.wait()
    with tempfile.TemporaryDirectory() as folder:
        shared = exchange.first(folder)
        save_state(Path(shared) / "s", file, copy.stream, exchange, engine.state.facts())
        fresh = make_engine(some, (stage + 1) % 4)
        fresh.load(Path(shared) / "s")
        same = make_engine(some, stage)
        same.load(Path(shared) / "s")
        found = values(same)
        wrong = {key: (found[key], expected[key]) for key in expected if found[key] != expected[key]}
        wrong = {key: [text[:80] for text in pair] for key, pair in wrong.items() if "/rng/" not in key}
        exchange.gather(None)
    copy.close()
    return [wrong, fresh.reader.sha256() == same.reader.sha256() == twin.reader.sha256()]


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_copy_beside_the_training_holds_one_step_and_waits_for_nothing(stage, captured):
    assert run(copied_beside, stage, captured) == [[{}, True]] * WORLD


def host_bytes(stage: int) -> tuple[int, int]:
    engine = make_engine(case(), stage)
    file = RankFile(engine.state.pieces())
    copy = HostCopy(file, engine.device)
    pinned = copy._memory.is_pinned()
    copy.close()
    return pinned, copy.nbytes == file.data_bytes


def test_host_memory_is_page_locked_and_as_large_as_the_state():
    assert run(host_bytes, 3) == [(True, True)] * WORLD


def generators(folder: Path) -> bool:
    engine = make_engine(case(), 2)
    torch.manual_seed(7 + engine.comm.rank)
    torch.rand(3, device=engine.device)
    engine.save(folder / "s")
    expected = torch.rand(5, device=engine.device).tolist(), torch.rand(5).tolist()
    torch.manual_seed(99)
    engine.load(folder / "s")
    return (torch.rand(5, device=engine.device).tolist(), torch.rand(5).tolist()) == expected


def test_generators_of_the_device_go_on(tmp_path):
    assert all(run(generators, tmp_path))
