"""From a model's folder and a file of conversations to an answer; a wrong step is one line that says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import transformers as hf

from tests.data.documents import jsonl
from tests.data.tokenizers import decoder
from tests.docs.forked import program
from tests.huggingface.folders import save
from tests.huggingface.models import DECODER

CHATS = [{"messages": [{"role": "user", "content": f"{i % 5}?"}, {"role": "assistant", "content": "yes yes"}]}
         for i in range(60)]  # fmt: skip
WORDS = ("zerokit", "model=hf", "data=chat", "data.seq_len=32")
LIGHT = ("tracker=none", "estimate.run=false", "launch.device=cpu", "launch.threads=1", "train.sample_tokens=0")


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """A folder with what a stranger has, and what can be wrong with it."""
    folder = tmp_path_factory.mktemp("given")
    decoder(save("llama", folder, vocabulary=400))
    jsonl(folder / "chats.jsonl", CHATS)
    jsonl(folder / "texts.jsonl", [{"text": "yes"}])
    jsonl(folder / "empty.jsonl", [*CHATS[:2], {"messages": []}])
    jsonl(folder / "silent.jsonl", [*CHATS[:2], {"messages": [CHATS[0]["messages"][0]]}])
    (folder / "nothing.jsonl").write_text("")
    shutil.copytree(folder / "llama", folder / "mute")
    (folder / "mute" / "tokenizer.json").unlink()
    (folder / "mute" / "tokenizer_config.json").unlink()
    decoder(Path(shutil.copytree(folder / "llama", folder / "untold")), template=None)
    values = {**DECODER, "vocab_size": 400, "tie_word_embeddings": False}
    hf.LlamaModel(hf.LlamaConfig(**values)).save_pretrained(folder / "headless")
    decoder(folder / "headless")
    return folder


def test_a_model_and_conversations_become_an_answer(given):
    words = ("model.path=llama", "data.files=[chats.jsonl]", "train.steps=80", "optimizer.lr=3e-2", "batch.global=8")
    trained = program([*WORDS, *words, *LIGHT, "hydra.run.dir=run", "state.final_dtype=fp32"], given)
    assert trained.status == 0, trained.errors
    answer = program(["zerokit", "generate", "run", "--prompt", "3?", "--tokens", "8", "--temperature", "0"], given)
    assert (answer.status, answer.output.strip()) == (0, "yes yes")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("model.path=mute", "data.files=[chats.jsonl]"), "data.tokenizer: the folder mute has no tokenizer"),
        (("model.path=untold", "data.files=[chats.jsonl]"), "has no chat template; choose one of chatml, llama3"),
        (("model.path=llama", "data.files=[texts.jsonl]"), "texts.jsonl:1: expected 'messages'"),
        (("model.path=llama", "data=jsonl", "data.files=[texts.jsonl]", "data.field=txt"), "did you mean text?"),
        (("model.path=llama", "data.files=[empty.jsonl]"), "empty.jsonl:3: expected a list of messages, got an empty"),
        (("model.path=llama", "data.files=[silent.jsonl]"), "silent.jsonl:3: expected a message of the assistant"),
        (("model.path=llama", "data.files=[nothing.jsonl]"), "expected at least one document"),
        (("model.path=llama", "data.files=[chat.jsonl]"), "data.files: no file matches 'chat.jsonl'"),
        (("model.path=headless", "data.files=[chats.jsonl]"), "the files have no 'lm_head.weight'"),
        (("model.path=lama", "data.files=[chats.jsonl]"), "model.path=lama: there is no such folder"),
        (("data.files=[chats.jsonl]",), "model.path=DIR"),
    ],
    ids=["no tokenizer", "no template", "other rows", "field", "empty", "no answer", "no rows", "no file", "no head",
         "no folder", "no model"],
)  # fmt: skip
def test_a_wrong_step_is_one_line(given, tmp_path, words, told):
    ended = program([*WORDS, *words, *LIGHT, "launch.nproc=1", f"hydra.run.dir={tmp_path / 'run'}"], given)
    line = " ".join(ended.errors.split())
    assert ended.status == 2 and told in line, ended.errors
    assert line.count("zerokit: ") == 1 and "Traceback" not in ended.errors and len(line) < 500
    summary = tmp_path / "run" / "summary.json"
    assert not summary.exists() or told in json.loads(summary.read_text())["error"]
