"""Pairs of texts: what is read, what is written, and what becomes of those that are too long."""

from __future__ import annotations

import pytest
import torch

from tests.data.documents import jsonl, make
from tests.data.tokenizers import decoder, encoder
from zerokit.config.errors import ConfigError

PAIRS = [("abc", "AB"), ("d", "DDDD"), ("eeeeeeeeeeee", "E"), ("f", "FFFFFFFFFFFF")]


@pytest.fixture
def pairs(tmp_path):
    return jsonl(tmp_path / "pairs.jsonl", [{"en": one, "to": {"de": other}} for one, other in PAIRS])


def texts(source) -> dict[str, str]:
    """What is written by what is read, of an epoch."""
    batch = source.batch(0, len(source))
    assert sorted(batch) == ["attention_mask", "input_ids", "labels"]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == source.info.pad).all()
    read = [ids[mask.bool()] for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    written = [labels[labels >= 0] for labels in batch["labels"]]
    decoded = [[source.decode(part.tolist()) for part in parts] for parts in (read, written)]
    return dict(zip(*decoded, strict=True))


@pytest.mark.parametrize(
    ("long", "told", "wanted"),
    [
        (None, "2 pairs with a text longer than 8 and 6 tokens cut",
         {"abc": "AB", "d": "DDDD", "eeeeeeee": "E", "f": "FFFFFF"}),
        ("drop", "2 pairs with a text longer than 8 and 6 tokens left out", {"abc": "AB", "d": "DDDD"}),
    ],
)  # fmt: skip
def test_long_texts_are_cut_or_left_out_and_counted(pairs, long, told, wanted):
    source = make("jsonl", pairs, field="en", target="to.de", seq_len=8, target_len=6, long=long, held_out_percent=0)
    assert texts(source) == wanted and source.info.description.endswith(told)
    assert (source.info.task, source.info.counted, source.info.sample_tokens) == ("seq2seq", "tokens", 14)


def test_both_texts_have_what_the_tokenizer_puts_around_them_also_when_cut(tmp_path):
    path = jsonl(tmp_path / "p.jsonl", [{"text": "def json return object string", "target": "value value value"}] * 2)
    source = make("jsonl", path, target="target", seq_len=5, target_len=4, tokenizer=str(encoder(tmp_path / "tok")))
    batch = source.batch(0, 1)
    for tokens in (batch["input_ids"][0], batch["labels"][0]):
        assert tokens[0] == 2 and tokens[-1] == 3 and (tokens[1:-1] > 4).all()
    assert source.prompt("def json return object string") == batch["input_ids"][0].tolist()
    ended = make("jsonl", path, target="target", seq_len=64, tokenizer=str(decoder(tmp_path / "bpe")))
    labels = ended.batch(0, 1)["labels"][0]
    assert labels[labels >= 0][-1] == ended.stop


def test_the_loss_is_that_of_the_tokens_at_their_own_places(pairs):
    source = make("jsonl", pairs, field="en", target="to.de", seq_len=16, held_out_percent=0)
    labels = source.batch(0, 2)["labels"]
    logits = torch.full((2, 16, 256), -100.0).scatter(2, labels.clamp(min=0)[..., None], 100.0)
    assert source.loss(logits, labels) == 0


def test_a_row_without_its_other_text_is_told_with_file_and_line(pairs):
    with pytest.raises(ConfigError, match=r"pairs.jsonl:1: expected a field 'fr', got 'en', 'to'"):
        make("jsonl", pairs, field="en", target="fr", seq_len=8)
