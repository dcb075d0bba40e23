"""Every optimizer on a GPU: compiled kernels and recorded steps give what the CPU gives, and skip on the device."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.process import forked, needs_gpu
from tests.optimizer.test_stages import RUNS, kind
from tests.optimizer.test_states import whole_states
from tests.optimizer.training import Run, engine_of, train, weights
from tests.zero.models import batches
from zerokit.comm import Communicator
from zerokit.zero.engine import Engine
from zerokit.zero.graph import WARMUP, CapturedStep

pytestmark = needs_gpu


def on_gpu(run: Run) -> Engine:
    return engine_of(run, comm=Communicator(torch.device("cuda", torch.cuda.current_device())))


@pytest.mark.parametrize("name", RUNS)
@forked
def test_gpu_and_cpu_agree(name):
    # other kernels for the gradients: a few ULP, which roots of small second moments and signs enlarge; bf16 in muon
    run = Run(kind(name), {"lr": 1e-3, **RUNS[name]}, steps=2)
    there, here = on_gpu(run), engine_of(run)
    start = weights(here)
    there.load_full_state_dict(start)  # devices draw other numbers for the same seed
    train(there, run.steps)
    train(here, run.steps)
    mine, theirs = weights(there), weights(here)
    moved = torch.stack([(theirs[key] - start[key]).norm() for key in theirs]).norm()
    apart = torch.stack([(mine[key].cpu() - theirs[key]).norm() for key in theirs]).norm()
    assert apart <= 0.1 * moved, (float(apart), float(moved))


@pytest.mark.parametrize("name", RUNS)
@forked
def test_a_skipped_step_leaves_everything_as_it_was(name):
    engine = on_gpu(Run(kind(name), {"lr": 0.01, **RUNS[name]}))
    train(engine, 2)
    before, states = weights(engine), whole_states(engine)
    (batch,) = batches(1, 1)[0]
    engine.backward(engine(*(t.to(engine.device) for t in batch)) * float("inf"))
    engine.step()
    assert int(engine.steps_skipped) == 1
    assert all(torch.equal(before[key], value) for key, value in weights(engine).items())
    assert whole_states(engine) == states


@pytest.mark.parametrize("name", RUNS)
@forked
def test_no_step_waits_for_the_device(name):
    engine = on_gpu(Run(kind(name), {"lr": 0.01, **RUNS[name]}))
    train(engine, 2)
    (batch,) = batches(1, 1)[0]
    engine.backward(engine(*(t.to(engine.device) for t in batch)))
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", RUNS)
@forked
def test_a_recorded_step_equals_one_that_is_not(name):
    run = Run(kind(name), {"lr": 0.01, **RUNS[name]})
    plain, recorded = on_gpu(run), on_gpu(run)
    steps = WARMUP + 3

    def one(engine: Engine):
        def step(micro_batches):
            loss = engine(*micro_batches[0])
            engine.backward(loss)
            engine.step()
            return loss.detach()

        return step

    captured = CapturedStep(recorded, one(recorded))
    for (batch,) in batches(steps, 1):
        batch = tuple(t.to(plain.device) for t in batch)
        one(plain)([batch])
        captured([batch])
    assert plain.reader.sha256() == recorded.reader.sha256()
