"""States in the host's memory on GPUs: the same bits as on the GPU, recorded steps and saved states too."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from tests.gpu.process import WORLD, needs_gpu
from tests.ranks import run_ranks
from tests.zero.models import batches
from tests.zero.test_offload import OPTIMIZERS, both, check
from tests.zero.training import Case, make_engine, train
from zerokit.comm.pinned import HostMemory
from zerokit.zero.graph import WARMUP, CapturedStep
from zerokit.zero.update import staging

pytestmark = needs_gpu


def run(function, *args, world: int = WORLD):
    return run_ranks(function, world, *args, backend="nccl", timeout=300)


def case(**options) -> Case:
    return Case(clip_norm=0.5, compute=torch.bfloat16, master="split", cuda=True, **options)


def in_pieces(case: Case, stage: int) -> tuple[dict, dict]:
    """`both`, with many pieces on their way at once."""
    staging.ELEMENTS = 512
    return both(case, stage)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_stages(stage):
    check(run(in_pieces, case(steps=6, accumulation=2), stage))


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name not in ("adamw", "onebit_adam")])
def test_the_optimizers(optimizer):
    check(run(in_pieces, case(steps=4, optimizer=optimizer, options=OPTIMIZERS[optimizer]), 3))


def recorded(case: Case, offload: str) -> str:
    """Digest after steps of which the later ones are replayed."""
    engine = make_engine(case, 3, offload=offload)
    (batch,) = batches(1, 1)[0]
    batch = tuple(t.to(engine.device) for t in batch)

    def step(micro_batches):
        loss = engine(*micro_batches[0])
        engine.backward(loss)
        engine.step()
        return loss.detach()

    captured = CapturedStep(engine, step)
    for _ in range(WARMUP + 4):
        captured([batch])
    return engine.reader.sha256()


def test_recorded_steps():
    for here, away in zip(run(recorded, case(), "none"), run(recorded, case(), "states"), strict=True):
        assert here == away


def saved(case: Case, folder: Path) -> tuple[str, str]:
    """Digests of an undisturbed training with states on the host, and of one that goes on from its state without."""
    engine = make_engine(case, 3, offload="states")
    train(engine, case)
    engine.save(folder / "state")
    train(engine, case)
    other = make_engine(case, 2)
    other.load(folder / "state")
    train(other, case)
    return engine.reader.sha256(), other.reader.sha256()


def test_a_state_goes_on_without():
    with tempfile.TemporaryDirectory() as folder:
        for first, then in run(saved, case(steps=2), Path(folder)):
            assert first == then


def locked() -> bool:
    """Whether memory is page-locked as long as it is there, and can be taken again."""
    for _ in range(3):
        memory = HostMemory(3 << 20, torch.device("cuda", 0))
        pinned = memory.bytes.is_pinned()
        del memory
        if not pinned:
            return False
    return True


def test_memory_is_page_locked():
    assert run(locked, world=1) == [True]
