"""Text files: cut into rows, by bytes or a tokenizer, split at their ends."""

from __future__ import annotations

import gzip

import pytest
import torch

from tests.data.documents import make
from tests.data.tokenizers import decoder
from zerokit.config.errors import ConfigError


def text(tmp_path, content=bytes(range(256)) * 20, name="a.txt", **options):
    path = tmp_path / name
    path.write_bytes(content)
    return make("text", path, **{"seq_len": 16} | options)


def every(source) -> torch.Tensor:
    return source.batch(0, len(source))["input_ids"]


def test_the_seed_changes_the_order_but_not_the_validation(tmp_path):
    first, second = text(tmp_path, seed=0), text(tmp_path, seed=1)
    assert not torch.equal(first.batch(0, 8)["input_ids"], second.batch(0, 8)["input_ids"])
    assert torch.equal(first.validation(0, 8)["input_ids"], second.validation(0, 8)["input_ids"])
    assert first.info.sha256 == second.info.sha256


def test_labels_are_the_tokens_at_their_places_and_every_token_but_the_first_is_one_once(tmp_path):
    source = text(tmp_path, bytes(range(256)) * 4, held_out_percent=0)
    batch = source.batch(0, len(source))
    assert batch["input_ids"].shape == batch["labels"].shape == (68, 16) and (batch["labels"][:, 0] == -100).all()
    assert torch.equal(batch["labels"][:, 1:], batch["input_ids"][:, 1:])
    learned = batch["labels"][batch["labels"] >= 0]
    assert torch.equal(learned.bincount(), torch.tensor([3, *[4] * 252, 3, 3, 3]))  # without the first and a short end


def test_the_end_of_each_file_is_held_out(tmp_path):
    source = text(tmp_path, b"a" * 900 + b"b" * 100, held_out_percent=10)
    assert every(source).unique().tolist() == [ord("a")]
    assert source.validation(0, 1)["input_ids"].unique().tolist() == [ord("b")]
    assert source.validation(0, 7) is None


def test_files_are_found_by_glob_and_in_folders_once_each(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.txt", "d.md", "e.png"):
        (tmp_path / name).write_bytes(name.encode() * 50)
    assert "3 files" in make("text", f"{tmp_path}/**/*.txt", f"{tmp_path}/a.txt", seq_len=4).info.description
    assert "4 files" in make("text", tmp_path, seq_len=4).info.description


def test_compressed_files_are_the_same_text(tmp_path):
    plain = text(tmp_path)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress((tmp_path / "a.txt").read_bytes()))
    packed = make("text", tmp_path / "b.txt.gz", seq_len=16)
    assert torch.equal(packed.batch(0, 30)["input_ids"], plain.batch(0, 30)["input_ids"])
    assert torch.equal(packed.validation(0, 9)["input_ids"], plain.validation(0, 9)["input_ids"])


def test_what_matches_nothing_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"data.files: no file matches '.*nothing\*' \(looked from"):
        make("text", f"{tmp_path}/nothing*")
    with pytest.raises(ConfigError, match=r"that folder has no file that ends in .txt, .md"):
        make("text", tmp_path)
    with pytest.raises(ValueError, match="files: expected at least one"):
        make("text")
    (tmp_path / "a.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(ConfigError, match=r"a.txt.gz cannot be read: Not a gzipped file"):
        make("text", tmp_path / "a.txt.gz")


def test_too_short_a_text_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="at least 16 held-out tokens for data.seq_len=16, got 5; .*_percent=0"):
        text(tmp_path, b"x" * 100)
    with pytest.raises(ConfigError, match="at least 16 training tokens for data.seq_len=16, got 10; lower"):
        text(tmp_path, b"x" * 10, held_out_percent=0)


def test_bytes_that_are_no_text_survive(tmp_path):
    source = text(tmp_path)
    assert source.decode(list("né".encode())) == "né"
    assert source.decode([0x6E, 0xC3]) == "n\ufffd"


@pytest.mark.parametrize("blocks", [1 << 20, 64])
def test_a_tokenizer_cuts_each_file_whole(tmp_path, monkeypatch, blocks):
    monkeypatch.setattr("zerokit.data._reading.BLOCK", blocks)
    monkeypatch.setenv("ZEROKIT_CACHE", str(tmp_path / "cache"))
    content = "".join(f"Zeile {line}: schöne Grüße\n" for line in range(200))
    source = text(tmp_path, content.encode(), tokenizer=str(decoder(tmp_path / "tok", bos=True)), packing="apart",
                  long="split", held_out_percent=10)  # fmt: skip
    store = source._splits["train"], source._splits["held_out"]
    train, held_out = (split.values(0, len(split.tokens)).tolist() for split in store)
    whole = source.decode(train)
    assert whole + source.decode(held_out) == content and whole.endswith("\n") and len(whole) / len(content) > 0.85
    end = source.tokenizer.eos
    assert train[0] == held_out[0] == 3 and train[-1] == held_out[-1] == end and train.count(3) == train.count(end) == 1
    assert source.info.bytes_per_token == len(content.encode()) / (len(train) + len(held_out))
    assert source.info.vocab_size == 400


def test_what_is_no_utf8_is_an_error_or_left_out(tmp_path):
    tokenizer = str(decoder(tmp_path / "tok"))
    content = b"good\n" * 50 + b"\xff\xfe bad\n"
    with pytest.raises(ConfigError, match="a.txt: byte 251: expected UTF-8, .*data.on_bad=skip"):
        text(tmp_path, content, tokenizer=tokenizer, held_out_percent=0)
    (tmp_path / "b.txt").write_bytes(b"more\n" * 50)
    source = make("text", tmp_path / "a.txt", tmp_path / "b.txt", tokenizer=tokenizer, seq_len=8, held_out_percent=0,
                  on_bad="skip")  # fmt: skip
    assert "; 1 bad rows left out" in source.info.description and "good" not in source.decode(every(source)[0].tolist())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere", "there is no folder or file 'nowhere' .*data.tokenizer=bytes"),
        ("empty", "the folder .*empty has no tokenizer"),
        ("broken.json", "broken.json cannot be read as a tokenizer: .* Expected a folder that `transformers` saved"),
    ],
)
def test_what_is_no_tokenizer_is_an_error(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"data.tokenizer: {message}"):
        text(tmp_path, tokenizer=given)
