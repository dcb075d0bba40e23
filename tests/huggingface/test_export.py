"""What a run leaves behind loads in transformers, and an adapter in peft."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

import peft
import transformers as hf

import zerokit
from tests.config.arguments import config
from tests.huggingface.folders import MODELS, TASKS, rows, save
from tests.ranks import run_ranks
from zerokit.comm import Communicator
from zerokit.train.assemble import assemble
from zerokit.train.export import export, export_final
from zerokit.train.resume import open_state
from zerokit.train.trainer import evaluating

ROWS = ("model=hf", "data=rows_of_tests", "batch.global=2", "train.steps=4", "tracker=none", "zero.min_unit=0",
        "zero=stage3", "optimizer.lr=1e-2", "state.every=4")  # fmt: skip


@torch.no_grad()
def logits(model):
    tokens = rows()["input_ids"][:2]
    more = {"decoder_input_ids": tokens[:, :3]} if model.config.is_encoder_decoder else {}
    return model.eval()(input_ids=tokens, **more).logits


def trained(path, run, *words):
    """Train, save a state, export it and the weights at hand; the logits of the model that was trained."""
    cfg = config(*ROWS, f"model.path={path}", *words)
    trainer = assemble(cfg, Communicator(torch.device("cpu")))
    saver, _ = open_state(trainer, cfg, cfg.to_dict(), run)
    for step, metrics in trainer.fit():
        saver.on_step(step, metrics)
    saver.finish(trainer.progress.step)
    export_final(trainer.engine, cfg.to_dict(), run / "model", "float32")
    with evaluating(trainer.engine.module), trainer.engine.gathered() as model:
        return logits(model).tolist()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_loads_in_transformers(name, tmp_path):
    path, run, task = save(name, tmp_path), tmp_path / "run", MODELS[name][0]
    words = (f"model.task={task}", f"data.task={TASKS[task]}")
    wanted = torch.tensor(run_ranks(trained, 2, path, run, *words)[0])
    export(run / "state" / "step-00000004", run / "export")
    for folder in ("model", "export"):
        loaded, told = getattr(hf, MODELS[name][2]).from_pretrained(run / folder, output_loading_info=True)
        assert not told["missing_keys"] and not told["unexpected_keys"]
        assert torch.equal(logits(loaded), wanted)
    assert not torch.allclose(logits(getattr(hf, MODELS[name][2]).from_pretrained(path)), wanted, atol=1e-3)


def test_an_adapter_loads_in_peft(tmp_path):
    path, run = save("llama", tmp_path), tmp_path / "run"
    wanted = torch.tensor(run_ranks(trained, 2, path, run, "adapter=lora", "adapter.r=4")[0])
    export(run / "state" / "step-00000004", run / "export")
    for folder in ("model", "export"):
        assert sorted(file.name for file in (run / folder).iterdir()) == [
            "adapter_config.json", "adapter_model.safetensors"
        ]  # fmt: skip
        assert torch.equal(logits(zerokit.load(run)), wanted)
        loaded = peft.PeftModel.from_pretrained(hf.LlamaForCausalLM.from_pretrained(path), run / folder)
        assert torch.equal(logits(loaded), wanted)


def of_ones_own(path, folder):
    """A step in a loop of one's own; the logits of the model that was trained."""
    model = zerokit.hf.load(path)
    engine = zerokit.initialize(model, {"zero": {"stage": 3, "min_unit": 0}})
    tokens = rows()["input_ids"][:2]
    engine.backward(engine(input_ids=tokens, labels=tokens).loss)
    engine.step()
    zerokit.hf.save(engine, folder, dtype="fp32")
    with evaluating(engine.module), engine.gathered() as model:
        return logits(model).tolist()


def test_a_loop_of_ones_own(tmp_path):
    path = save("qwen", tmp_path)
    wanted = torch.tensor(run_ranks(of_ones_own, 2, path, tmp_path / "trained")[0])
    assert torch.equal(logits(zerokit.load(tmp_path / "trained")), wanted)
    with pytest.raises(ValueError, match="holds no model"):
        zerokit.load(tmp_path)
