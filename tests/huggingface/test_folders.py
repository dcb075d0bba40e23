"""`model=hf`: models from folders, part by part into the ranks; what is wrong is told in one line."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

import transformers as hf

from tests.config.arguments import config
from tests.huggingface.folders import MODELS, TASKS, info, save
from tests.huggingface.models import DECODER, TEXT_ENCODER
from tests.ranks import run_ranks
from zerokit.comm import Communicator
from zerokit.config.errors import ConfigError
from zerokit.train.assemble import assemble, build_model

ROWS = ("model=hf", "data=rows_of_tests", "batch.global=2", "train.steps=1", "tracker=none")
CPU = torch.device("cpu")

# -- weights ---------------------------------------------------------------------------------------------------------


def whole(folder, *words):
    """All weights of a model, as the ranks hold them after it was built, as lists."""
    engine = assemble(config(*ROWS, f"model.path={folder}", *words), Communicator(CPU)).engine
    return {name: value.tolist() for name, value in engine.full_state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_those_of_the_folder(name, tmp_path):
    path = save(name, tmp_path, max_shard_size="20KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    wanted = dict(getattr(hf, MODELS[name][2]).from_pretrained(path).named_parameters())
    task = MODELS[name][0]
    words = (f"model.task={task}", f"data.task={TASKS[task]}", "zero=stage3", "zero.min_unit=0")
    got = run_ranks(whole, 2, path, *words)[1]
    assert got == {name: value.tolist() for name, value in wanted.items()}


def test_experts_that_are_stored_one_by_one(tmp_path):
    """transformers saves them so, and stacks them when it loads."""
    made = hf.MixtralForCausalLM(hf.MixtralConfig(**DECODER, num_local_experts=4, num_experts_per_tok=2))
    made.save_pretrained(tmp_path)
    assert whole(tmp_path) == {name: value.tolist() for name, value in made.named_parameters()}


def anonymous():
    """Bytes of this process that no file backs."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def beside(folder):
    """What this rank takes at its most, beside what it keeps, while the model is built: in parts of the model."""
    most, done, before = [0], threading.Event(), anonymous()

    def watch():
        while not done.is_set():
            most[0] = max(most[0], anonymous() - before)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    trainer = assemble(config(*ROWS, f"model.path={folder}", "zero=stage3", "zero.min_unit=0"), Communicator(CPU))
    done.set()
    watcher.join()
    kept, whole = sum(trainer.engine.memory().values()), sum(4 * p.numel() for p in trainer.engine.module.parameters())
    return (most[0] - kept) / whole, trainer.engine.memory()["parameters"] / whole


def test_no_rank_holds_the_whole_model(tmp_path):
    sizes = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 6}
    hf.LlamaForCausalLM(hf.LlamaConfig(**{**DECODER, **sizes, "num_key_value_heads": 6})).save_pretrained(tmp_path)
    for more, part in run_ranks(beside, 2, tmp_path):
        assert more < 0.15
        assert part == pytest.approx(0.5, rel=0.01)


def test_random_weights_are_drawn_as_transformers_draws_them(tmp_path):
    hf.GPT2Config(vocab_size=64, n_embd=64, n_layer=8, n_head=2).save_pretrained(tmp_path)
    stage3, stage0 = (
        run_ranks(whole, ranks, tmp_path, "model.init=random", f"zero=stage{stage}", "zero.min_unit=0")[0]
        for ranks, stage in ((2, 3), (1, 0))
    )
    assert stage3 == stage0
    stage0 = {name: torch.tensor(value) for name, value in stage0.items()}
    assert stage0["transformer.h.0.attn.c_attn.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert stage0["transformer.h.3.mlp.c_proj.weight"].std() == pytest.approx(0.02 / 16**0.5, rel=0.05)
    assert (stage0["transformer.h.0.ln_1.weight"] == 1).all() and (stage0["transformer.h.0.mlp.c_fc.bias"] == 0).all()


# -- mistakes --------------------------------------------------------------------------------------------------------


def refused(*words, task="tokens"):
    """The error of a model that cannot be built, in one line. task: of the data."""
    with pytest.raises(ConfigError) as caught:
        build_model(config(*ROWS, *words), info(task))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_folder(tmp_path):
    assert "path: expected a folder" in refused()
    assert "there is no such folder" in refused(f"model.path={tmp_path / 'nowhere'}")
    assert "has no config.json" in refused(f"model.path={tmp_path}")


def test_the_hub_cannot_be_reached(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    told = refused("model.path=nobody/no-such-model")
    assert "hf download nobody/no-such-model --local-dir DIR" in told


def test_no_weights(tmp_path):
    path = save("llama", tmp_path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    assert "no safetensors but pytorch_model.bin" in refused(f"model.path={path}")


def test_a_damaged_file(tmp_path):
    path = save("llama", tmp_path)
    (path / "model.safetensors").write_bytes(b"\x10" + bytes(40))
    assert "model.safetensors cannot be read" in refused(f"model.path={path}")


def test_a_model_without_a_head(tmp_path):
    hf.BertModel(hf.BertConfig(**TEXT_ENCODER)).save_pretrained(tmp_path)
    task = ("model.task=masked_lm", "data.task=masked")
    with pytest.raises(ConfigError, match="model.missing=random") as caught:
        build_model(config(*ROWS, f"model.path={tmp_path}", *task), info("masked"))
    told = str(caught.value)
    assert "the files have no 'cls.predictions" in told
    cfg = config(*ROWS, f"model.path={tmp_path}", *task, "model.missing=random")
    assert build_model(cfg, info("masked")).stored_weights


def test_another_model_than_the_config_says(tmp_path):
    path = save("llama", tmp_path)
    values = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**values, "intermediate_size": 48}))
    assert "has the shape [32, 16] in the files" in refused(f"model.path={path}")


def test_a_task_that_the_architecture_has_not(tmp_path):
    words = (f"model.path={save('llama', tmp_path)}", "model.task=seq2seq")
    assert "no such model of type 'llama'" in refused(*words, task="seq2seq")


def test_an_attention_that_is_not_there(tmp_path):
    told = refused(f"model.path={save('llama', tmp_path)}", "model.attention=flash")
    assert told.startswith("model.attention=flash: ")


def test_data_that_do_not_suit(tmp_path):
    path = save("llama", tmp_path)
    assert "needs data for classes" in refused(f"model.path={path}", "model.task=classification")
    assert "needs data for texts that are written (data.target=FIELD)" in refused(
        f"model.path={path}", "model.task=seq2seq"
    )
    values = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**values, "max_position_embeddings": 8}))
    assert "data.seq_len=12 is longer than the 8 tokens" in refused(f"model.path={path}", "model.init=random")
    (path / "config.json").write_text(json.dumps({**values, "vocab_size": 32}))
    assert "knows 32 tokens, and the data have 64" in refused(f"model.path={path}", "model.init=random")
