"""States on the host: the same weights, bit for bit, whatever the optimizer, the stage and the precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.ranks import run_ranks
from tests.zero.training import Case, make_engine, train
from zerokit.comm.pinned import Host, HostMemory
from zerokit.config.errors import ConfigError
from zerokit.config.host import available_memory
from zerokit.zero.placement import Memory

BF16 = {"compute": torch.bfloat16, "master": "split", "accumulate": torch.bfloat16, "reduce": torch.bfloat16}
FP16 = {"compute": torch.float16, "master": "separate"}
OPTIMIZERS = {
    "adamw": {},
    "sgd": {"momentum": 0.9},
    "lion": {},
    "lamb": {},
    "adafactor": {},
    "adagrad": {},
    "adam8bit": {},
    "muon": {},
    "schedule_free_adamw": {},
    "onebit_adam": {"freeze_step": 2},
}


def outcome(case: Case, stage: int, **extra) -> dict:
    """What a training ends with: digest, norm, states, bytes."""
    engine = make_engine(case, stage, **extra)
    losses = train(engine, case)
    states = {
        (name, key): engine.values.state(name, key)
        for unit in engine.storage.trainable
        for name in unit.names
        for key in engine.values.states(name)
    }
    with engine.evaluating():
        evaluated = engine.reader.sha256()
    return {
        "weights": engine.reader.sha256(),
        "evaluated": evaluated,
        "losses": losses,
        "norm": float(engine.grad_norm),
        "states": {key: value.tolist() for key, value in states.items()},
        "memory": engine.memory(),
    }


def both(case: Case, stage: int, **extra) -> tuple[dict, dict]:
    """The same training with all on the device, and with states on the host."""
    return outcome(case, stage), outcome(case, stage, offload="states", **extra)


def check(results: list) -> None:
    """Nothing differs but where memory lies."""
    for here, away in results:
        on_device, with_host = here.pop("memory"), away.pop("memory")
        assert here == away
        assert on_device["host"] == 0
        assert with_host["host"] > 0
        moved = sum(on_device[kind] - with_host[kind] for kind in ("parameters", "optimizer"))
        assert with_host["host"] == moved


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", [{}, BF16, FP16], ids=["fp32", "bf16", "fp16"])
def test_stages_and_precisions(stage, precision):
    check(run_ranks(both, 2, Case(steps=3, accumulation=2, clip_norm=0.3, **precision), stage))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer):
    case = Case(steps=4, optimizer=optimizer, options=OPTIMIZERS[optimizer], clip_norm=0.5, **BF16)
    check(run_ranks(both, 2, case, 1 if optimizer == "onebit_adam" else 3))


def test_one_rank():
    check([both(Case(steps=3, **BF16), 3)])


def kept(case: Case) -> list[dict]:
    """Where units' states lie as more of them may stay."""
    found = []
    total = make_engine(case, 3, offload="states").memory()["host"] / 2**30
    for gib in (0.0, 0.7 * total, 1.0):
        engine = make_engine(case, 3, offload="states", offload_keep_gib=gib)
        train(engine, case)
        away = [unit.away for unit in engine.storage.trainable]
        found.append({"away": away, "weights": engine.reader.sha256(), "host": engine.memory()["host"]})
    return found


def test_some_may_stay():
    case = Case(steps=3, **BF16)
    for none, some, everything in run_ranks(kept, 2, case):
        assert none["weights"] == some["weights"] == everything["weights"]
        assert all(none["away"])
        assert not any(everything["away"])
        assert some["away"] == sorted(some["away"])  # those that are used first stay
        assert len(set(some["away"])) == 2
        assert none["host"] > some["host"] > everything["host"] == 0


def resumed(case: Case, folder: str, first: str, then: str, stages: tuple[int, int]) -> tuple[str, str]:
    """Digests of an undisturbed training and of one that goes on elsewhere."""
    engine = make_engine(case, stages[0], offload=first)
    train(engine, case)
    engine.save(Path(folder) / "state")
    train(engine, case)
    other = make_engine(case, stages[1], offload=then)
    other.load(Path(folder) / "state")
    train(other, case)
    return engine.reader.sha256(), other.reader.sha256()


@pytest.mark.parametrize(("first", "then"), [("none", "states"), ("states", "none"), ("states", "states")])
def test_a_state_goes_on_at_another_home(tmp_path, first, then):
    case = Case(steps=2, clip_norm=0.5, **BF16)
    for undisturbed, went_on in run_ranks(resumed, 2, case, str(tmp_path), first, then, (2, 3)):
        assert undisturbed == went_on


def written(case: Case) -> bool:
    """Whether single values are read and written on the host as on the device."""
    found = []
    for offload in ("none", "states"):
        engine = make_engine(case, 3, offload=offload)
        train(engine, case)
        name = engine.storage.trainable[0].names[0]
        engine.values.set_weight(name, torch.full_like(engine.values.weight(name), 0.123456789))
        for key in engine.values.states(name):
            engine.values.set_state(name, key, engine.values.state(name, key) * 3)
        train(engine, case)
        found.append((engine.reader.sha256(), engine.values.state(name, "exp_avg").tolist()))
        engine.load_full_state_dict({name: torch.zeros_like(engine.values.weight(name))}, strict=False)
        found[-1] += (engine.reader.sha256(),)
    return found[0] == found[1]


def test_single_values():
    assert run_ranks(written, 2, Case(steps=2, **BF16)) == [True, True]


def test_the_home_says_where_states_lie():
    engine = make_engine(Case(), 3, offload="states")
    assert engine.stage.optimizer.memory is Memory.HOST
    assert engine.stage.parameter.memory is engine.stage.gradient.memory is Memory.DEVICE


def test_too_little_memory_is_told_before_it_is_taken(monkeypatch):
    monkeypatch.setattr("zerokit.comm.pinned.available_memory", lambda: 1000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"zero.offload=states takes 0.0 GiB .* in each of 4 processes"):
        make_engine(Case(), 3, offload="states")


def test_any_rank_that_has_too_little_refuses_for_all():
    with pytest.raises(ConfigError, match="on another one less"):
        Host(torch.device("cpu"), agree=lambda here: True).reserve(1, "x")


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 4096 * 1024), ("3000000", 3000000 - 1000000 + 5000), ("900000", 5000)]
)
def test_the_limit_of_a_container_counts(tmp_path, limit, expected):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 4096 kB\n")
    for name, text in (("max", limit), ("current", "1000000"), ("stat", "anon 7\ninactive_file 5000\n")):
        (tmp_path / name).write_text(text)
    paths = (str(tmp_path / "max"), str(tmp_path / "current"), str(tmp_path / "stat"))
    found = available_memory([paths], str(tmp_path / "meminfo"))
    assert found == (max(0, 900000 - 1000000 + 5000) if limit == "900000" else expected)


def test_what_is_asked_for_is_taken_and_no_more():
    memory = HostMemory(1_000_001, torch.device("cpu"))
    assert memory.nbytes == len(memory.bytes) == 1_000_001
    assert not memory.bytes.any()
