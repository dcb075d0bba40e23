"""Exported models: their files, their names, and that `transformers` computes the same with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.commands import zerokit
from tests.config.arguments import config
from tests.state.trained import SMALL
from zerokit.cli import run
from zerokit.comm import Communicator
from zerokit.state import export as written
from zerokit.state.errors import DamagedState, StateError
from zerokit.state.read import StateReader, verify
from zerokit.train.assemble import assemble
from zerokit.train.export import export
from zerokit.train.resume import open_state

LLAMA = (
    "model=llama_350m", "model.dim=32", "model.layers=2", "model.heads=4", "model.kv_heads=2", "model.hidden=48",
    "model.vocab_size=40",
    "data=synthetic", "data.vocab_size=40", "data.seq_len=16", "launch.device=cpu", "batch.global=4", "tracker=none",
    "train.steps=2",
)  # fmt: skip


def saved(folder: Path, *words: str):
    """The trainer of a run that has been saved at its end, and the state."""
    cfg = config(*words, "state.every=2")
    trainer = assemble(cfg, Communicator(torch.device("cpu")))
    saver, _ = open_state(trainer, cfg, cfg.to_dict(), folder)
    for step, _ in trainer.fit():
        saver.on_step(step)
    saver.finish(trainer.progress.step)
    return trainer, folder / "state" / f"step-{trainer.progress.step:08d}"


def logits(trainer, tokens: torch.Tensor) -> torch.Tensor:
    trainer.engine.module.eval()
    with torch.no_grad():
        return trainer.engine(tokens)


@pytest.mark.parametrize("words", [(), ("model.tied=true",), ("model.rope_factor=8", "model.rope_context=8")])
def test_transformers_computes_the_same_logits(words, tmp_path):
    transformers = pytest.importorskip("transformers")
    trainer, state = saved(tmp_path, *LLAMA, *words)
    export(state, tmp_path / "model")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert type(theirs).__name__ == "LlamaForCausalLM"
    tokens = torch.randint(40, (3, 16))
    with torch.no_grad():
        found = theirs(tokens).logits
    # The same operations in fp32, in another order (three products for one): a few units in the last place.
    torch.testing.assert_close(found, logits(trainer, tokens), atol=1e-5, rtol=1e-5)


def test_names_and_shapes_of_llama(tmp_path):
    trainer, state = saved(tmp_path, *LLAMA)
    assert export(state, tmp_path / "model") == ["model.safetensors", "config.json"]
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    weights = trainer.engine.full_state_dict()
    qkv = weights["blocks.1.attention.qkv.weight"]
    for name, rows in {"q": qkv[:32], "k": qkv[32:48], "v": qkv[48:]}.items():
        assert torch.equal(tensors[f"model.layers.1.self_attn.{name}_proj.weight"], rows)
    assert torch.equal(tensors["model.layers.0.mlp.up_proj.weight"], weights["blocks.0.feed_forward.up.weight"][48:])
    assert sum(t.numel() for t in tensors.values()) == sum(t.numel() for t in weights.values())
    with safe_open(tmp_path / "model" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    described = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (described["vocab_size"], described["max_position_embeddings"], described["dtype"]) == (40, 16, "float32")


def test_other_models_keep_their_names(tmp_path):
    trainer, state = saved(tmp_path, *SMALL, "precision=bf16")
    export(state, tmp_path / "model", dtype="bfloat16")
    tensors, weights = load_file(tmp_path / "model" / "model.safetensors"), trainer.engine.full_state_dict()
    assert tensors.keys() == weights.keys()
    assert all(torch.equal(tensors[name], value.bfloat16()) for name, value in weights.items())
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model"]["dim"] == 16


def test_an_optimizer_that_evaluates_other_weights_exports_those(tmp_path):
    trainer, state = saved(tmp_path, *SMALL, "optimizer=schedule_free_adamw", "train.steps=4")
    export(state, tmp_path / "model")
    tensors, evaluated = load_file(tmp_path / "model" / "model.safetensors"), trainer.engine.full_state_dict()
    manifest = verify(state)
    with StateReader(state, manifest) as reader:
        for name, value in evaluated.items():
            assert torch.equal(tensors[name], value)
            assert not torch.equal(value, reader.tensor(f"weight/{name}")), "the state has the trained ones"


def test_large_models_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(written.write_model, "__defaults__", (20_000, *written.write_model.__defaults__[1:]))
    trainer, state = saved(tmp_path, *LLAMA)
    files = export(state, tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2 and files == [*shards, "model.safetensors.index.json", "config.json"]
    sizes = 0
    for shard in shards:
        tensors = load_file(tmp_path / "model" / shard)
        assert {index["weight_map"][name] for name in tensors} == {shard}
        sizes += sum(t.nbytes for t in tensors.values())
    assert sizes == index["metadata"]["total_size"]


def test_nothing_is_overwritten_and_damage_is_found(tmp_path, capsys):
    _, state = saved(tmp_path, *LLAMA)
    export(state, tmp_path / "model")
    with pytest.raises(StateError, match="not empty"):
        export(state, tmp_path / "model")
    assert run(["export", str(state), str(tmp_path / "model")]) == 2
    assert "not empty: remove it" in capsys.readouterr().err
    file = next(state.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedState, match=file.name):
        export(state, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "state"]


def test_commands_on_a_run(tmp_path):
    saved(tmp_path / "run", *SMALL, "train.steps=4", "state.keep=2")
    listed = zerokit("state", "run", cwd=tmp_path)
    assert listed.returncode == 0 and listed.stderr == ""
    assert "step-00000004" in listed.stdout and "step-00000002" in listed.stdout
    assert max(map(len, listed.stdout.splitlines())) <= 80
    file = next((tmp_path / "run" / "state" / "step-00000004").glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert zerokit("state", "run", cwd=tmp_path).returncode == 0, "lengths are as they were"
    verified = zerokit("state", "run", "--verify", cwd=tmp_path)
    assert verified.returncode == 1 and "DAMAGED" in verified.stdout and file.name in verified.stdout
    exported = zerokit("export", "run", "--dtype", "bf16", cwd=tmp_path)
    assert exported.returncode == 0 and file.name in exported.stderr, "the newest is damaged, the one before is taken"
    assert "exported run/state/step-00000002 instead" in exported.stderr
    assert exported.stdout.split() == ["run/model/model.safetensors", "run/model/config.json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("state",), "zerokit state PATH"),
        (("state", "nowhere"), "nowhere: expected a state"),
        (("export", "nowhere"), "nowhere: expected a state"),
        (("export", "a", "--dtype=bf"), "Did you mean bf16"),
        (("export", "a", "--shard"), "Unknown flag --shard"),
    ],
)
def test_wrong_words_end_with_2(words, message, tmp_path):
    result = zerokit(*words, cwd=tmp_path)
    assert result.returncode == 2 and message in result.stderr, result.stderr
