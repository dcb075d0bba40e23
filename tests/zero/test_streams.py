"""Which stream waits for which: everything that reads or writes memory follows what it must (see tests/streams.py)."""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import count

import pytest
import torch

from tests.ranks import run_ranks
from tests.streams import FakeDevice, FakeStream
from tests.zero.models import batches
from tests.zero.test_peers import FileMemory
from tests.zero.training import Case, make_engine
from zerokit.comm import Communicator
from zerokit.state.rankfile import RankFile
from zerokit.state.snapshot import HostCopy
from zerokit.zero.engine import Engine

NUMBERS = count()
OPTIONS = dict(steps=2, accumulation=2, clip_norm=0.5, compute=torch.bfloat16, master="split")


def nothing(engine: Engine, device: FakeDevice, inputs: tuple) -> None:
    pass


def read_gradients(engine: Engine, device: FakeDevice, inputs: tuple) -> None:
    for unit in engine.storage.trainable:
        engine.values.gradient(unit.names[0])


def start_again(engine: Engine, device: FakeDevice, inputs: tuple) -> None:
    engine.backward(engine(*inputs), last=True)
    engine.zero_grad()


def fail(engine: Engine, device: FakeDevice, inputs: tuple) -> None:
    def fails(gradient):
        raise ArithmeticError("in the first block's backward")

    loss = engine(*inputs)
    block = next(unit for unit in engine.storage.trainable if unit.kind == "block")
    hook = block.parameters[0].register_hook(fails)
    with pytest.raises(ArithmeticError):
        engine.backward(loss, last=True)
    hook.remove()


def evaluate(engine: Engine, device: FakeDevice, inputs: tuple) -> None:
    with torch.no_grad(), engine.evaluating():
        engine(*inputs)
    engine.reader.sha256()


def take_copy(engine: Engine, device: FakeDevice) -> tuple[HostCopy, str]:
    """A copy that is under way, and the name of its stream."""
    copy = HostCopy(RankFile(engine.state.pieces()), engine.device)
    copy._stream = FakeStream(device, name := f"copy {next(NUMBERS)}")
    engine.state.refresh()
    copy.take(engine.comm)
    return copy, name


def copy_and_change(engine: Engine, device: FakeDevice, inputs: tuple) -> None:
    """Weights to evaluate are put in, and values set, while a copy is under way."""
    for change in (evaluate, set_values):
        copy, _ = take_copy(engine, device)
        change(engine, device, inputs)
        copy.wait()


def set_values(engine: Engine, device: FakeDevice, inputs: tuple) -> None:
    name = next(unit for unit in engine.storage.trainable if unit.kind == "block").names[0]
    state = engine.values.states(name)[0]
    engine.values.set_state(name, state, engine.values.state(name, state) + 1)
    engine.values.set_weight(name, engine.values.weight(name) + 1)


def copy_state(engine: Engine, device: FakeDevice, inputs: tuple) -> None:
    """Take a copy; the next step waits for it in its update at the earliest."""
    copy, name = take_copy(engine, device)
    for _ in range(engine.accumulation):
        engine.backward(engine(*inputs))
    for stream in (engine.comm.compute, engine.comm.gathers, engine.comm.reductions):
        assert not stream.clock[name], f"{stream.name} waits for the copy"
    engine.step()
    assert engine.comm.updates.clock[name]
    copy.wait()


WITHIN = (read_gradients,)


def races(case: Case, stages: list[int], event, folder: str | None, **extra) -> list[str]:
    """Train with `event` after each step, or between its micro-batches; what is not in order."""
    if folder is not None:
        names = iter(range(1000))
        Communicator.peer_memory = lambda self, elements, dtype: FileMemory(folder, str(next(names)), elements, dtype)
    found = []
    for stage in stages:
        engine = make_engine(case, stage, peers=folder is not None, transient_gradients=True, **extra)
        world, rank = engine.comm.world, engine.comm.rank
        with FakeDevice(engine.comm) as device:
            engine.comm.fork()
            for step in batches(case.steps, case.accumulation * world):
                for micro in range(case.accumulation):
                    engine.backward(engine(*step[micro * world + rank]))
                    if event in WITHIN:
                        event(engine, device, step[rank])
                engine.step()
                if event not in WITHIN:
                    event(engine, device, step[rank])
        found += [f"stage {stage}: {race}" for race in device.races]
    return found


EVENTS = [nothing, read_gradients, start_again, fail, evaluate, copy_state, copy_and_change]


@pytest.mark.parametrize(
    ("event", "peers"), [*((event, False) for event in EVENTS), (read_gradients, True), (evaluate, True)]
)
def test_streams_follow_what_they_must(event, peers):
    optimizer = "schedule_free_adamw" if event in (evaluate, copy_and_change) else "adamw"
    case = Case(model="frozen", optimizer=optimizer, **OPTIONS)
    with tempfile.TemporaryDirectory() as folder:
        assert run_ranks(races, 2, case, [0, 1, 2, 3], event, folder if peers else None) == [[], []]


@pytest.mark.parametrize("optimizer", ["muon", "adafactor", "onebit_adam"])
def test_updates_with_collectives_follow_what_they_must(optimizer):
    options = {"freeze_step": 1} if optimizer == "onebit_adam" else {}
    case = Case(optimizer=optimizer, options=options, **OPTIONS)
    stages = [0, 1] if optimizer == "onebit_adam" else [1, 3]
    assert run_ranks(races, 2, case, stages, nothing, None) == [[], []]


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adafactor"])
@pytest.mark.parametrize("event", [nothing, start_again, fail, copy_state])
def test_copies_to_and_from_the_host_follow_what_they_must(optimizer, event):
    case = Case(optimizer=optimizer, **OPTIONS)
    found = run_ranks(partial(races, offload="states"), 2, case, [1, 3], event, None)
    assert found == [[], []]


def unordered(stage: int) -> int:
    """Races that are found where updates follow nothing."""
    engine = make_engine(Case(), stage, transient_gradients=True)
    with FakeDevice(engine.comm) as device:
        engine.comm.updates.wait = lambda event: None
        engine.backward(engine(*batches(1, 1)[0][0]))
        engine.step()
    return len(device.races)


def test_what_is_out_of_order_is_found():
    assert unordered(0) > 0
