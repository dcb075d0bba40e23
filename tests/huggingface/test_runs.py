"""Whole runs of `model=hf` on the command line, on two ranks: every task, at stages 0 and 3, in fp32 and bf16."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("transformers")

import transformers as hf

from tests.data.documents import jsonl
from tests.data.tokenizers import decoder, encoder
from tests.docs.forked import program
from tests.huggingface.folders import MODELS, save

COMBINATIONS = list(product(("stage0", "stage3"), ("fp32", "bf16")))
WORDS = ("json", "object", "value", "string", "list")
TEXT = ("data=text", "data.files=[text.txt]")
STEPS = 16


class Case(NamedTuple):
    """Data that a model learns from, with its tokenizer, and what an evaluation tells of it."""

    words: tuple[str, ...]
    tokenizer: str = "decoder"
    metrics: tuple[str, ...] = ("eval/perplexity",)


CASES = {
    "t5": Case(("data=jsonl", "data.files=[pairs.jsonl]", "data.target=loud", "data.target_len=12")),
    "llama": Case((*TEXT, "train.sample_tokens=8")),
    "qwen": Case(("data=chat", "data.files=[chats.jsonl]", "data.packing=none", "train.sample_tokens=8")),
    "bert": Case((*TEXT, "data.mask_percent=15"), "encoder", ("eval/perplexity", "eval/accuracy")),
    "classifier": Case(("data=jsonl", "data.files=[rows.jsonl]", "data.label=kind"), "encoder", ("eval/accuracy",)),
}


def chosen(name: str) -> list[tuple[str, str]]:
    """One combination; all models together have every one."""
    return [COMBINATIONS[list(CASES).index(name) % len(COMBINATIONS)]]


def write_data(folder: Path) -> None:
    """Files of text, of conversations, of pairs and of rows with classes."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=4)) for _ in range(120)]
    (folder / "text.txt").write_text("\n".join(texts * 4))
    jsonl(folder / "chats.jsonl", [{"prompt": text, "completion": "yes"} for text in texts])
    jsonl(folder / "pairs.jsonl", [{"text": text, "loud": text[:4].upper()} for text in texts])
    jsonl(folder / "rows.jsonl", [{"text": text, "kind": f"of {text.split()[0]}"} for text in texts])


def run(name: str, stage: str, precision: str, folder: Path) -> dict:
    """Train a model in a folder on the command line; its summary and its last line of metrics."""
    task = MODELS[name][0]
    target = folder / stage / precision
    result = program([
        "zerokit", "model=hf", f"model.path={name}", f"model.task={task}", *CASES[name].words, "data.seq_len=32",
        f"zero={stage}", f"precision={precision}", "zero.min_unit=0", f"train.steps={STEPS}", "optimizer.lr=2e-2",
        "train.log_every=8", "model.missing=random", "tracker=none", f"hydra.run.dir={target}",
    ], folder)  # fmt: skip
    assert result.status == 0, result.output + result.errors
    line = json.loads((target / "metrics.jsonl").read_text().splitlines()[-1])
    return {**line, **json.loads((target / "summary.json").read_text())}


def check(name: str, combinations: list[tuple[str, str]], folder: Path) -> None:
    """Train in each combination, and look at what is left behind."""
    write_data(folder)
    case, kind = CASES[name], MODELS[name][2]
    path = save(name, folder, vocabulary=400)
    {"encoder": encoder, "decoder": decoder}[case.tokenizer](path)
    for stage, precision in combinations:
        found = run(name, stage, precision, folder)
        assert found["status"] == "finished" and found["loss"] < found["loss_first"] - 0.1
        assert found["predicted_gib"] is not None and found["flops_per_token"] > 0
        assert (found["sample"] is None) == (MODELS[name][0] != "causal_lm")
        assert all(found[metric] > 0 for metric in case.metrics)
        model = folder / stage / precision / "model"
        loaded, told = getattr(hf, kind).from_pretrained(model, output_loading_info=True)
        assert not told["missing_keys"] and (model / "tokenizer.json").is_file()
        if name == "classifier":
            assert sorted(loaded.config.label2id) == list(loaded.config.id2label.values())
            assert set(loaded.config.label2id) == {f"of {word}" for word in WORDS}


def check_writing(folder: Path, run: Path) -> None:
    """What an encoder-decoder writes on the command line is what transformers writes."""
    words = ("--prompt", "json list", "--tokens", "5", "--temperature", "0")
    result = program(["zerokit", "generate", str(run), *words], folder)
    assert result.status == 0, result.errors
    made = hf.T5ForConditionalGeneration.from_pretrained(run / "model", dtype="float32")
    tokenizer = hf.AutoTokenizer.from_pretrained(folder / "t5")
    read = tokenizer("json list<|im_end|>", return_tensors="pt").input_ids
    ends = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": tokenizer.eos_token_id}
    wanted = tokenizer.decode(made.generate(read, attention_mask=read * 0 + 1, **ends)[0], skip_special_tokens=True)
    assert result.output.rstrip("\n") == wanted.rstrip("\n")


def test_every_combination_is_chosen():
    assert {how for name in CASES for how in chosen(name)} == set(COMBINATIONS) and CASES.keys() == MODELS.keys()


@pytest.mark.parametrize("name", CASES)
def test_trains_on_the_command_line(name, tmp_path):
    check(name, chosen(name), tmp_path)
    if name == "t5":
        check_writing(tmp_path, tmp_path.joinpath(*chosen(name)[0]))


@pytest.mark.chaos
@pytest.mark.parametrize("name", CASES)
def test_every_combination_trains_on_the_command_line(name, tmp_path):
    check(name, COMBINATIONS, tmp_path)
