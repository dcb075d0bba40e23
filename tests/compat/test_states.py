"""Checkpoints: tag, latest, client_state, other stages and numbers of ranks, whole models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zerokit.compat.deepspeed as deepspeed
from tests.compat.scripts import FORMATS, Net, digest, make, micro_batches, on_all_stages, train
from tests.ranks import run_ranks

SCHEDULER = {"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 10}}}


def saved(stage: int, folder: Path) -> list[str]:
    """Digest after four steps, with states after two."""
    engine, *_ = make(stage, **SCHEDULER)
    train(engine, 2)
    engine.save_checkpoint(folder, client_state={"epoch": 3, "best": torch.tensor([0.5]), "names": ["a", ("b",)]})
    train(engine, 2)
    return [digest(engine), str(engine.get_lr())]


def loaded(stage: int, folder: Path) -> tuple:
    torch.manual_seed(5)
    engine, _, _, scheduler = make(stage, model=Net(), **SCHEDULER)
    path, client = engine.load_checkpoint(folder)
    facts = (Path(path).name, client["epoch"], client["best"].tolist(), client["names"], engine.global_steps,
             engine.micro_steps, scheduler.last_batch_iteration)  # fmt: skip
    train(engine, 2)
    return facts, [digest(engine), str(engine.get_lr())]


FACTS = ("global_step2", 3, [0.5], ["a", ("b",)], 2, 4, 1)


@pytest.mark.parametrize(("writer", "reader"), [(0, 0), (1, 1), (2, 3), (3, 2)])
def test_a_training_goes_on_bit_for_bit(tmp_path, writer, reader):
    (expected, _) = run_ranks(saved, 2, writer, tmp_path)
    for facts, found in run_ranks(loaded, 2, reader, tmp_path):
        assert facts == FACTS and found == expected


def test_another_number_of_ranks_loads_it_without_conversion(tmp_path):
    run_ranks(saved, 2, 3, tmp_path)
    ((facts, _),) = run_ranks(loaded, 1, 1, tmp_path)
    assert facts == FACTS


def test_latest_tags_and_parts(tmp_path, caplog):
    engine, *_ = make(2, **SCHEDULER)
    deepspeed.logger.addHandler(caplog.handler)
    assert engine.load_checkpoint(tmp_path) == (None, None)
    deepspeed.logger.removeHandler(caplog.handler)
    assert "There is no" in caplog.text and "latest" in caplog.text
    train(engine, 1)
    engine.save_checkpoint(tmp_path, tag="one")
    first = digest(engine)
    train(engine, 2)  # the first two steps of a warm-up have a learning rate of 0
    engine.save_checkpoint(tmp_path, tag="two", save_latest=False)
    second = digest(engine)
    assert (tmp_path / "latest").read_text() == "one"
    engine.save_checkpoint(tmp_path, tag="one")  # in the place of the other
    other, *_ = make(1, **SCHEDULER)
    other.load_checkpoint(tmp_path, tag="one")
    assert digest(other) == second != first and sorted(p.name for p in tmp_path.iterdir()) == ["latest", "one", "two"]
    other, *_ = make(1, **SCHEDULER)
    assert other.load_checkpoint(tmp_path, tag="two", load_module_only=True)[1] == {}
    state = deepspeed.utils.safe_get_full_optimizer_state(other.module.head.weight, "exp_avg")
    assert digest(other) == second and other.global_steps == 0 and not state.any()
    assert other.lr_scheduler.last_batch_iteration == -1
    other, *_ = make(1, **SCHEDULER)
    other.load_checkpoint(tmp_path, tag="two", load_optimizer_states=False)
    assert digest(other) == second and other.global_steps == 3 and other.lr_scheduler.last_batch_iteration == 2


def test_a_state_within_a_step_is_saved_without_its_gradients(tmp_path, caplog):
    engine, *_ = make(2)
    x, y = next(micro_batches(engine, 1))
    engine.backward((engine(x) - y).square().mean())
    engine.step()
    deepspeed.logger.addHandler(caplog.handler)
    engine.save_checkpoint(tmp_path, tag="within")
    deepspeed.logger.removeHandler(caplog.handler)
    assert "the gradients of 1 micro-batches are not in it" in caplog.text
    other, *_ = make(2)
    other.load_checkpoint(tmp_path)
    assert other.engine.micro_batches == 0 and digest(other) == digest(engine)


def test_code_in_client_state_is_refused(tmp_path):
    engine, *_ = make(2)
    with pytest.raises(ValueError, match=r"client_state must hold numbers.*\['function'\]"):
        engine.save_checkpoint(tmp_path, client_state={"function": Path})


def whole(stage: int, precision: str, folder: Path) -> dict:
    engine, *_ = make(stage, **FORMATS[precision])
    train(engine, 1)
    engine.save_16bit_model(folder / f"{stage}")
    engine.save_16bit_model(folder / f"{stage}", "model.safetensors")
    engine.save_checkpoint(folder / f"{stage}" / "states")
    state = engine._zero3_consolidated_16bit_state_dict()
    everywhere = engine.module_state_dict()
    compute = next(engine.parameters()).dtype
    masters = engine.engine.full_state_dict()
    names = list(Net().state_dict())
    close = all(
        everywhere[n].dtype is compute and torch.allclose(everywhere[n].float(), masters[n], atol=0, rtol=2**-8)
        for n in masters
    )
    complete = state is not None and sorted(state) == sorted(names)
    return {"rank 0": complete, "everywhere": sorted(everywhere) == sorted(names), "close": close}


@pytest.mark.parametrize("precision", FORMATS)
def test_whole_models_in_the_compute_format(tmp_path, precision):
    results = on_all_stages(whole, 2, precision, tmp_path)
    assert [r["rank 0"] for r in results] == [True] * 4 + [False] * 4
    assert all(r["everywhere"] and r["close"] for r in results)
    for stage in range(4):
        file = torch.load(tmp_path / str(stage) / "pytorch_model.bin", weights_only=True)
        Net().to(file["head.weight"].dtype).load_state_dict(file)
        safe = load_file(tmp_path / str(stage) / "model.safetensors")
        assert all(torch.equal(safe[name], value) for name, value in file.items())
        fp32 = deepspeed.utils.get_fp32_state_dict_from_zero_checkpoint(tmp_path / str(stage) / "states")
        assert fp32["head.weight"].dtype is torch.float32 and set(fp32) == {n for n, _ in Net().named_parameters()}
        torch.testing.assert_close(fp32["head.weight"], file["head.weight"].float(), atol=0, rtol=2**-8)


class Tied(torch.nn.Module):
    """Two pairs of names for one parameter each, one of them across modules."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(12, 12, bias=False)
        self.second = torch.nn.Linear(12, 12, bias=False)
        self.second.weight = self.first.weight
        self.head = torch.nn.Linear(12, 1)
        self.bias = self.head.bias

    def forward(self, x):
        return self.head(self.second(self.first(x))) + self.bias


def test_every_name_of_tied_weights_is_in_the_fp32_state_dict(tmp_path):
    def run(stage: int) -> None:
        torch.manual_seed(0)
        engine, *_ = make(stage, model=Tied())
        train(engine, 1)
        engine.save_checkpoint(tmp_path / str(stage))

    on_all_stages(run, 2)
    for stage in range(4):
        weights = deepspeed.utils.get_fp32_state_dict_from_zero_checkpoint(tmp_path / str(stage))
        model = Tied()
        model.load_state_dict(weights)
        assert torch.equal(weights["second.weight"], weights["first.weight"]) and model.bias is model.head.bias


FOLDERS = {
    "save_checkpoint": lambda engine: engine.save_checkpoint(""),
    "load_checkpoint": lambda engine: engine.load_checkpoint(""),
    "save_16bit_model": lambda engine: engine.save_16bit_model(""),
    "fp32": lambda engine: deepspeed.utils.get_fp32_state_dict_from_zero_checkpoint(""),
}


@pytest.mark.parametrize("call", FOLDERS)
def test_an_empty_text_is_no_folder(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine, *_ = make(1)
    with pytest.raises(ValueError, match="_dir: expected a folder, got an empty text"):
        FOLDERS[call](engine)
    assert not list(tmp_path.iterdir())
