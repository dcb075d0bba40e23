"""`adapter=lora` and `train.freeze`: what is trained, what is saved, and that peft reads it."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

from tests.config.arguments import config
from tests.huggingface.folders import info, save
from tests.ranks import run_ranks
from zerokit.comm import Communicator
from zerokit.config.errors import ConfigError
from zerokit.state.read import verify
from zerokit.train.assemble import assemble, build_model
from zerokit.train.resume import open_state

CPU = torch.device("cpu")
ROWS = ("model=hf", "data=rows_of_tests", "batch.global=2", "train.steps=6", "tracker=none", "zero.min_unit=0",
        "optimizer.lr=1e-2", "scheduler=constant", "scheduler.warmup=0")  # fmt: skip
LORA = ("adapter=lora", "adapter.r=4", "adapter.alpha=8")


def trained(path, run, *words):
    """After some steps, its state saved: the weights by name and how many bytes of weights a rank holds."""
    cfg = config(*ROWS, f"model.path={path}", *words, "state.every=6")
    trainer = assemble(cfg, Communicator(CPU))
    saver, resumed = open_state(trainer, cfg, cfg.to_dict(), run)
    before = {name: value.clone() for name, value in trainer.engine.whole_weights()}
    for step, metrics in trainer.fit():
        saver.on_step(step, metrics)
    saver.finish(trainer.progress.step)
    after = dict(trainer.engine.whole_weights())
    moved = {name: float((after[name] - before[name]).abs().max()) for name in after}
    frozen = [unit.weight.values.dtype for unit in trainer.engine.units if not unit.trainable]
    return moved, str(set(frozen)), trainer.engine.memory()["parameters"], resumed is not None


@pytest.mark.parametrize("name", ["llama", "qwen"])
def test_an_adapter_alone_is_trained_and_saved(name, tmp_path):
    path, run = save(name, tmp_path), tmp_path / "run"
    moved, formats, _, resumed = run_ranks(trained, 2, path, run, *LORA, "zero=stage3", "precision=bf16")[0]
    adapter = {part for part in moved if "lora_" in part}
    assert len(adapter) == 2 * 7 * 2 and all(moved[part] > 0 for part in adapter)
    assert all(moved[part] == 0 for part in moved.keys() - adapter)
    assert formats == "{torch.bfloat16}" and not resumed
    manifest = verify(run / "state" / "step-00000006")
    weights = {part.removeprefix("weight/") for part in manifest.tensors if part.startswith("weight/")}
    assert weights == adapter
    assert len(manifest.facts["training"]["adapter.base"]) == 32


def test_an_adapter_goes_on_beside_its_own_base_only(tmp_path):
    path, run = save("llama", tmp_path), tmp_path / "run"
    run_ranks(trained, 2, path, run, *LORA, "zero=stage3")
    assert run_ranks(trained, 1, path, run, *LORA, "zero=stage0", "train.steps=12")[0][3]
    save("llama", tmp_path, seed=1)
    with pytest.raises(AssertionError, match=r"adapter\.base: .* in the state, .* here"):
        run_ranks(trained, 1, path, run, *LORA, "train.steps=24")


def test_targets_by_name(tmp_path):
    path = save("llama", tmp_path)
    model = build_model(config(*ROWS, f"model.path={path}", *LORA, "adapter.targets=[q_proj,v_proj]"), info())
    assert len([name for name, p in model.named_parameters() if p.requires_grad]) == 2 * 2 * 2
    with pytest.raises(ConfigError, match="'k_prj' is no linear layer of the model. Did you mean k_proj"):
        build_model(config(*ROWS, f"model.path={path}", *LORA, "adapter.targets=[k_prj]"), info())


def test_an_adapter_in_a_model_of_zerokit():
    words = ("model=gpt_nano", "model.dim=32", "model.layers=1", "data.seq_len=16", "tracker=none", *LORA)
    trainer = assemble(config(*words, "train.steps=2"), Communicator(CPU))
    names = [name for unit in trainer.engine.units if unit.trainable for name in unit.names]
    assert len(names) == 8 and all("lora_" in name for name in names)
    assert [step for step, _ in trainer.fit()] == [1, 2]


def test_frozen_parameters(tmp_path):
    path = save("llama", tmp_path)
    freeze = "train.freeze=['*embed*','model.layers.0.*']"
    moved, *_ = run_ranks(trained, 2, path, tmp_path / "run", freeze, "zero=stage3")[0]
    still = {part for part, way in moved.items() if way == 0}
    assert still == {part for part in moved if "embed" in part or "layers.0." in part}
    manifest = verify(tmp_path / "run" / "state" / "step-00000006")
    assert all(f"weight/{part}" in manifest.tensors for part in moved)


def test_patterns_that_freeze_nothing_or_all(tmp_path):
    path = save("llama", tmp_path)
    for pattern, told in (("'*embd*'", "matches no parameter"), ("'*'", "nothing is left to train")):
        with pytest.raises(ConfigError, match=told):
            build_model(config(*ROWS, f"model.path={path}", f"train.freeze=[{pattern}]"), info())
