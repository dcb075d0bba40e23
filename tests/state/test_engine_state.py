"""An engine's state on disk: saved at one stage, precision and number of ranks, loaded at another."""

from __future__ import annotations

import json
import random
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from torch import nn

import zerokit
from tests.ranks import run_ranks
from tests.state.trained import fresh, trained, values
from tests.zero.models import Language
from tests.zero.training import Case, make_optimizer, train
from zerokit.config import registry
from zerokit.state.errors import StateError, StateMismatch
from zerokit.state.manifest import read_manifest
from zerokit.state.read import StateReader, verify
from zerokit.zero.engine import Engine


def save(folder: Path, stage: int, precision: str = "bf16", **case) -> str:
    engine = trained(stage, precision=precision, **case)
    engine.save(folder / "s", user={"epoch": 3})
    return engine.reader.sha256()


def canonical(folder: Path) -> dict[str, str]:
    """Whole tensors that ranks share, put together from all files."""
    manifest = verify(folder)
    with StateReader(folder, manifest) as reader:
        return {n: str(reader.tensor(n).tolist()) for n in manifest.tensors if not n.startswith("rank")}


def load_and_save(folder: Path, stage: int, precision: str, number: int) -> str:
    engine = fresh(stage, precision)
    assert engine.load(folder / "s") == {"epoch": 3}
    engine.save(folder / f"again{number}")
    return engine.reader.sha256()


def test_a_tree_that_is_not_installed_saves_too(tmp_path, monkeypatch):
    def none_but_torch(name):
        if name != "torch":
            raise PackageNotFoundError(name)
        return torch.__version__

    monkeypatch.setattr("importlib.metadata.version", none_but_torch)
    monkeypatch.setattr("zerokit.state.save.version", none_but_torch)
    save(tmp_path, 2)
    assert verify(tmp_path / "s").facts["zerokit"] == zerokit.__version__


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_row_6_any_state_is_read_at_any_stage_and_number_of_ranks(stage, tmp_path):
    digest = run_ranks(save, 3, tmp_path, stage)[0]
    expected = canonical(tmp_path / "s")
    for number, (world, target, precision) in enumerate([(2, 1, "separate"), (1, 2, "fp32"), (4, 3, "bf16")]):
        assert set(run_ranks(load_and_save, world, tmp_path, (target + stage) % 4, precision, number)) == {digest}
        assert canonical(tmp_path / f"again{number}") == expected


def go_on(folder: Path, stage: int, precision: str, optimizer: str) -> bool:
    case = {"optimizer": optimizer, "model": "frozen"}
    first = trained(stage, precision=precision, **case)
    first.save(folder / "s")
    train(first, Case(steps=3, **case))
    second = fresh(stage, precision, **case)
    second.load(folder / "s")
    train(second, Case(steps=3, **case))
    return values(first) == values(second)


@pytest.mark.parametrize(
    ("stage", "precision"), [(0, "separate"), (0, "bf16"), (1, "bf16"), (2, "fp32"), (3, "separate"), (3, "fp32")]
)
def test_row_5_training_goes_on_bit_for_bit(stage, precision, tmp_path):
    assert all(run_ranks(go_on, 2, tmp_path, stage, precision, "adamw"))


def highest(optimizer: str, stage: int) -> int:
    """The stage, or the highest one below it that an optimizer works at."""
    return min(stage, max(registry.options_type("optimizer", optimizer).stages or (stage,)))


def go_on_with_all(folder: Path) -> dict[str, bool]:
    return {name: go_on(folder / name, highest(name, 3), "bf16", name) for name in registry.names("optimizer")}


def test_row_5_every_optimizer_goes_on_bit_for_bit(tmp_path):
    for same in run_ranks(go_on_with_all, 2, tmp_path, timeout=300):
        assert [name for name, equal in same.items() if not equal] == []


def save_with_all(folder: Path) -> None:
    for name in registry.names("optimizer"):
        trained(highest(name, 2), optimizer=name).save(folder / name)


def resave_with_all(folder: Path, stage: int) -> None:
    for name in registry.names("optimizer"):
        engine = fresh(stage, optimizer=name)
        engine.load(folder / name)
        engine.save(folder / "again" / name)


def test_row_6_states_of_every_optimizer_are_read_at_another_stage_and_number_of_ranks(tmp_path):
    run_ranks(save_with_all, 2, tmp_path, timeout=300)
    run_ranks(resave_with_all, 3, tmp_path, 0, timeout=300)
    for name in registry.names("optimizer"):
        assert canonical(tmp_path / "again" / name) == canonical(tmp_path / name), name


def test_a_state_is_as_large_as_its_tensors(tmp_path):
    engine = Engine(nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 100)), make_optimizer("adamw"), stage=3)
    engine.save(tmp_path / "s")
    states = 12 * sum(p.numel() for p in engine.module.parameters())
    assert states < sum(f.stat().st_size for f in (tmp_path / "s").iterdir()) < 1.01 * states + 12_000  # generators


def test_an_existing_folder_is_never_overwritten(tmp_path):
    engine = fresh(0)
    engine.save(tmp_path / "s")
    before = {f.name: f.read_bytes() for f in (tmp_path / "s").iterdir()}
    with pytest.raises(StateError, match="never overwritten"):
        engine.save(tmp_path / "s")
    assert {f.name: f.read_bytes() for f in (tmp_path / "s").iterdir()} == before
    assert [f.name for f in tmp_path.iterdir()] == ["s"]


def test_a_state_is_saved_between_steps_only(tmp_path):
    engine = fresh(0, accumulation=2)
    batch = (torch.zeros(2, 5, dtype=torch.int64),) * 2
    engine.backward(engine(*batch))
    with pytest.raises(RuntimeError, match="1 of 2 micro-batches"):
        engine.save(tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_user_values_must_be_json(tmp_path):
    with pytest.raises(ValueError, match="must be JSON"):
        fresh(0).save(tmp_path / "s", user={"tensor": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def mismatches(folder: Path) -> list[str]:
    trained(2).save(folder / "s")
    found = []
    for other in (
        lambda: fresh(2, model="unused"), lambda: fresh(2, optimizer="sgd"),
        lambda: Engine(Language(dim=8), make_optimizer("adamw")),
    ):  # fmt: skip
        engine = other()
        before = values(engine)
        with pytest.raises(StateMismatch) as error:
            engine.load(folder / "s")
        assert values(engine) == before, "nothing has changed"
        found.append(str(error.value))
    return found


def test_row_18_a_state_of_another_model_or_optimizer_is_refused(tmp_path):
    for found in run_ranks(mismatches, 2, tmp_path):
        assert "'weight/" in found[0] and "is not in the state" in found[0]
        assert "'optimizer.velocity/" in found[1]
        assert "[23, 12] in the state, [23, 8] here" in found[2]


class Counted(nn.Module):
    """Has a buffer that forward replaces, one that it changes, and one that is not saved."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("table", torch.zeros(3), persistent=False)

    def forward(self, x):
        self.calls = self.calls + 1
        return self.norm(self.linear(x)).square().mean()


def buffers(folder: Path) -> bool:
    engine, other = (Engine(Counted(), make_optimizer("adamw")) for _ in range(2))
    for _ in range(3):
        engine.backward(engine(torch.randn(5, 4)))
        engine.step()
    engine.save(folder / "s")
    other.load(folder / "s")
    names = read_manifest(folder / "s").tensors
    assert not any("table" in name for name in names)
    mine, theirs = dict(engine.module.named_buffers()), dict(other.module.named_buffers())
    return float(theirs["calls"]) == 3 and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_buffers_of_every_rank_are_saved(tmp_path):
    assert all(run_ranks(buffers, 2, tmp_path))


def full(stage: int) -> list:
    engine, other = trained(stage), fresh((stage + 1) % 4)
    weights = engine.full_state_dict()
    first = engine.full_state_dict(rank0_only=True)
    other.load_full_state_dict(weights)
    again = other.full_state_dict()
    same = all(torch.equal(weights[name], again[name]) for name in weights) and weights.keys() == again.keys()
    with pytest.raises(ValueError, match="missing .*embed.weight"):
        other.load_full_state_dict({})
    with pytest.raises(ValueError, match=r"expected the shape \(23, 12\)"):
        other.load_full_state_dict(weights | {"embed.weight": torch.zeros(1)})
    other.load_full_state_dict({"norm.bias": torch.full((12,), 7.0)}, strict=False)
    changed = other.full_state_dict()
    train(other, Case(steps=1))  # the gathered weights are the new ones
    return [same, len(first), changed["norm.bias"].tolist() == [7.0] * 12]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_whole_weights_out_and_in(stage):
    first, second = run_ranks(full, 2, stage)
    assert first[0] and second[0] and first[2]
    assert first[1] > 0 and second[1] == 0


@pytest.mark.parametrize("stage", [0, 3])
def test_averages_start_at_weights_that_are_loaded(stage):
    engine = fresh(stage, optimizer="schedule_free_adamw")
    weights = {name: value + 1 for name, value in engine.full_state_dict().items()}
    engine.load_full_state_dict(weights)
    assert all(torch.equal(weights[name], value) for name, value in engine.full_state_dict().items())


def test_tied_weights_may_come_under_both_names():
    engine = fresh(0, model="tied")
    weights = dict(engine.full_state_dict())
    engine.load_full_state_dict(weights | {"head.weight": weights["embed.weight"]})


def test_the_files_are_plain_safetensors(tmp_path):
    from safetensors.torch import load_file

    trained(2).save(tmp_path / "s")
    tensors = load_file(tmp_path / "s" / "rank-00000-of-00001.safetensors")
    assert tensors["weight/embed.weight"].dtype == torch.float32
    assert json.loads((tmp_path / "s" / "manifest.json").read_text())["manifest"]["facts"]["stage"] == 2


def _draw() -> list[float]:
    import numpy

    return [torch.rand(()).item(), random.random(), random.gauss(), numpy.random.rand(), numpy.random.standard_normal()]


def test_every_generator_goes_on_where_it_was(tmp_path):
    pytest.importorskip("numpy")
    engine = fresh(0)
    _draw()  # normal numbers come in pairs, and the second is kept
    engine.save(tmp_path / "saved")
    drawn = _draw()
    _draw()
    fresh(0).load(tmp_path / "saved")
    assert _draw() == drawn


def test_a_state_without_numpys_generator_leaves_it_alone(tmp_path, monkeypatch):
    """Such as one from before it was saved, or from where NumPy was not imported."""
    numpy = pytest.importorskip("numpy")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "numpy", None)
        fresh(0).save(tmp_path / "saved")
    assert not any("numpy" in name for name in read_manifest(tmp_path / "saved").tensors)
    engine = fresh(0)
    numpy.random.seed(5)
    expected = numpy.random.rand()
    numpy.random.seed(5)
    engine.load(tmp_path / "saved")
    assert numpy.random.rand() == expected
