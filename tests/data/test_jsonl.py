"""Rows with a field of text: packed, padded or joined; what is wrong is told with file and line."""

from __future__ import annotations

import gzip
import json

import pytest
import torch

from tests.data.documents import jsonl, make
from tests.data.tokenizers import decoder, encoder
from zerokit.config.errors import ConfigError

LENGTHS = (3, 9, 1, 16, 5, 30, 2, 7, 16, 4)


@pytest.fixture
def rows(tmp_path):
    """Texts of these lengths, each of a letter of its own."""
    return jsonl(tmp_path / "rows.jsonl", [{"text": chr(97 + i) * length} for i, length in enumerate(LENGTHS)])


def every(source) -> dict[str, torch.Tensor]:
    return source.batch(0, len(source))


def test_packed_documents_are_whole_restart_and_begin_with_no_target(rows):
    source = make("jsonl", rows, seq_len=16, held_out_percent=0)
    batch = every(source)
    assert sorted(batch) == ["input_ids", "labels", "position_ids"]
    letters, places, labels = batch["input_ids"], batch["position_ids"], batch["labels"]
    counts = [int((labels == 97 + i).sum()) for i in range(len(LENGTHS))]
    assert counts == [length - 1 for length in LENGTHS]  # the 30 in two pieces that overlap: none is lost
    starts = letters[:, 1:] != letters[:, :-1]
    assert (places[:, 1:][starts] == 0).all() and (labels[:, 1:][starts] == -100).all() and (labels[:, 0] == -100).all()
    assert torch.equal(labels[labels >= 0], letters[labels >= 0])
    assert len(source) == 6  # 92 tokens of pieces of at least 2 need 6 rows of 16


def test_padded_documents_have_a_row_each_and_a_mask(rows):
    batch = every(make("jsonl", rows, seq_len=16, packing="none", long="cut", held_out_percent=0))
    assert sorted(batch) == ["attention_mask", "input_ids", "labels"] and len(batch["labels"]) == len(LENGTHS) - 1
    lengths = sorted(min(length, 16) for length in LENGTHS if length > 1)
    assert sorted(batch["attention_mask"].sum(1).tolist()) == lengths
    assert sorted((batch["labels"] >= 0).sum(1).tolist()) == [length - 1 for length in lengths]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()


@pytest.mark.parametrize(
    ("long", "told", "letters"),
    [
        ("split", "1 documents longer than 16 tokens divided", 30),
        ("cut", "1 documents longer than 16 tokens cut, which leaves out 14 tokens", 16),
        ("drop", "1 documents longer than 16 tokens left out", 0),
    ],
)
def test_long_documents_are_counted_and_said(rows, long, told, letters):
    source = make("jsonl", rows, seq_len=16, packing="none", long=long, held_out_percent=0)
    assert source.info.description.endswith(told)
    assert int((every(source)["labels"] == ord("f")).sum()) == max(0, letters - 1)


def test_the_order_depends_on_seed_epoch_and_index_alone(rows):
    source = make("jsonl", rows, seq_len=16, packing="none", seed=3, held_out_percent=0)
    whole = source.batch(4, 30)["input_ids"]  # over three epochs
    other = make("jsonl", rows, seq_len=16, packing="none", seed=3, held_out_percent=0)
    for size in (1, 7):
        parts = [other.batch(start, min(size, 34 - start))["input_ids"] for start in range(4, 34, size)]
        assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(
        make("jsonl", rows, seq_len=16, packing="none", held_out_percent=0).batch(4, 30)["input_ids"], whole
    )


@pytest.mark.parametrize(("percent", "wanted"), [(5, 1), (10, 1), (30, 3), (50, 5), (0, 0)])
def test_a_share_of_the_documents_is_held_out(rows, percent, wanted):
    source = make("jsonl", rows, seq_len=64, packing="none", held_out_percent=percent)
    kept = source.validation(0, wanted) if wanted else None
    assert source.validation(0, wanted + 1) is None and (kept is None or len(kept["labels"]) == wanted)
    letters = {int(row[0]) for row in every(source)["input_ids"]}
    held = set() if kept is None else {int(row[0]) for row in kept["input_ids"]}
    assert not letters & held and len(letters | held) == len(LENGTHS) - 1  # the single token is no row


def test_files_for_validation_take_its_place(rows, tmp_path):
    other = jsonl(tmp_path / "other.jsonl", [{"text": "zzzz"}, {"text": "yyy"}])
    source = make("jsonl", rows, other, seq_len=32, packing="none", held_out_files=[str(other)])
    assert sorted(source.validation(0, 2)["input_ids"][:, 0].tolist()) == [ord("y"), ord("z")]
    assert len(source) == 9


def test_other_spellings_of_rows_are_the_same_documents(rows, tmp_path):
    wanted = every(make("jsonl", rows, seq_len=16))["input_ids"]
    values = [json.loads(line) for line in rows.read_text().splitlines()]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows.read_bytes()))
    (tmp_path / "b.json").write_text(json.dumps(values, indent=1))
    jsonl(tmp_path / "c.json", values)
    jsonl(tmp_path / "d.ndjson", [{"meta": {"body": row["text"]}} for row in values])
    for name, key in (("a.jsonl.gz", "text"), ("b.json", "text"), ("c.json", "text"), ("d.ndjson", "meta.body")):
        assert torch.equal(every(make("jsonl", tmp_path / name, seq_len=16, field=key))["input_ids"], wanted), name


BAD = [
    ('{"text": "x"', "expected a JSON object in one line, but it is no JSON"),
    ('["text"]', "expected a JSON object such as {...}, got list"),
    ('{"txt": "x"}', "expected a field 'text', got 'txt'; did you mean txt?"),
    ('{"text": 5}', "expected text in 'text', got int '5'"),
    ('{"text": ""}', "expected text in 'text', got an empty text"),
    ('{"text": null}', "expected text in 'text', got NoneType 'None'"),
    ("\udcff", "expected UTF-8, but byte 1 is none"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_row_is_told_with_file_and_line_or_left_out(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    good = '{"text": "good text"}'
    path.write_bytes("\n".join([good, "", line, good, good]).encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as error:
        make("jsonl", path, seq_len=8)
    assert str(error.value).startswith(f"{path}:3: {message}") and "data.on_bad=skip" in str(error.value)
    source = make("jsonl", path, seq_len=8, on_bad="skip")
    assert "1 bad rows left out" in source.info.description


def test_classes_are_numbers_or_sorted_names(tmp_path):
    tokenizer = str(encoder(tmp_path / "tok"))
    for names in (["no", "yes", "maybe"], [1, 2, 0]):
        rows = [{"text": f"def {names[i % 3]}", "label": names[i % 3]} for i in range(12)]
        source = make("jsonl", jsonl(tmp_path / "r.jsonl", rows), seq_len=12, packing="none", label="label",
                      tokenizer=tokenizer, held_out_percent=0)  # fmt: skip
        assert (source.info.task, source.info.out_features) == ("classification", 3)
        assert source.classes == sorted(names)
        batch = every(source)
        for ids, label in zip(batch["input_ids"], batch["labels"], strict=True):
            text = source.decode(ids.tolist()).replace(" ", "").removeprefix("def")
            assert text == str(source.classes[label]), (text, label)
        assert batch["labels"].bincount().tolist() == [4, 4, 4] and sorted(batch)[0] == "attention_mask"


def test_an_encoder_has_its_own_marks_and_is_not_cut_by_its_file(tmp_path):
    rows = jsonl(tmp_path / "r.jsonl", [{"text": "def json return object string value"}] * 3)
    source = make("jsonl", rows, seq_len=32, packing="none", tokenizer=str(encoder(tmp_path / "tok")))
    ids, mask = source.batch(0, 1)["input_ids"][0], source.batch(0, 1)["attention_mask"][0]
    count = int(mask.sum())
    assert count > 6 and ids[0] == 2 and ids[count - 1] == 3 and (ids[count:] == 0).all()


def test_a_decoder_ends_each_document_and_begins_it_where_its_tokenizer_does(tmp_path):
    rows = jsonl(tmp_path / "r.jsonl", [{"text": "Hello"}] * 8)
    for bos in (False, True):
        folder = decoder(tmp_path / f"tok{bos}", bos=bos)
        for given in (folder, folder / "tokenizer.json"):
            source = make("jsonl", rows, seq_len=16, packing="none", tokenizer=str(given), held_out_percent=0)
            ids = source.batch(0, 1)["input_ids"][0].tolist()
            end = source.tokenizer.eos
            assert (ids[0] == 3) is bos and end in ids and set(ids[ids.index(end) + 1 :]) == {source.tokenizer.pad}


def test_impossible_options_are_refused(rows):
    for options, message in (
        ({"seq_len": 1}, "seq_len: expected at least 2"),
        ({"held_out_percent": 80}, "held_out_percent: expected 0 to 50; got 80"),
        ({"label": "x", "packing": "apart"}, "packing: a class belongs to one text; with label=x expected none"),
        ({"target": "x", "packing": "join"}, "packing: a target belongs to one text; with target=x expected none"),
        ({"target": "x", "long": "split"}, "long: a pair of texts cannot be divided; expected cut or drop"),
        ({"target": "x", "label": "y"}, "label: expected one of target and label; got both"),
        ({"target_len": 8}, "target_len: expected target=FIELD beside it"),
    ):
        with pytest.raises(ValueError, match=message):
            make("jsonl", rows, **options)
    long = jsonl(rows.with_name("long.jsonl"), [{"text": "long"}] * 3)
    with pytest.raises(ConfigError, match="expected at least one document .* of 2 none is left .data.long=drop"):
        make("jsonl", long, seq_len=2, long="drop")


def test_masked_tokens_are_labels_at_their_places_others_are_not(tmp_path):
    words = "def json return object string value " * 6
    path = jsonl(tmp_path / "r.jsonl", [{"text": words}] * 40)
    options = {"seq_len": 64, "tokenizer": str(encoder(tmp_path / "tok")), "mask_percent": 15, "long": "cut"}
    source, plain = (make("jsonl", path, packing="none", **options | more) for more in ({}, {"mask_percent": 0}))
    whole, ids = plain.batch(0, 38)["input_ids"], source.batch(0, 38)["input_ids"]
    labels = source.batch(0, 38)["labels"]
    chosen = labels >= 0
    assert source.info.task == "masked" and torch.equal(labels[chosen], whole[chosen])
    assert torch.equal(ids[~chosen], whole[~chosen]) and not torch.isin(labels, torch.arange(5)).any()
    assert 0.11 < chosen.float().mean() < 0.19 and 0.7 < (ids[chosen] == 4).float().mean() < 0.9
    assert torch.equal(source.batch(5, 1)["labels"], labels[5:6])  # by index alone
    later = source.batch(38, 38)["labels"]  # another epoch, in another order and with other masks
    assert {tuple(row) for row in (later >= 0).tolist()}.isdisjoint({tuple(row) for row in chosen.tolist()})
    held_out = source.validation(0, 2)
    assert torch.equal(
        make("jsonl", path, packing="none", seed=5, **options).validation(0, 2)["labels"], held_out["labels"]
    )
    logits = torch.zeros(2, 64, 300)
    torch.testing.assert_close(source.loss(logits, held_out["labels"]), torch.tensor(300.0).log())
    with pytest.raises(ConfigError, match="the tokenizer bytes has no mask token"):
        make("jsonl", path, mask_percent=15)


def test_parquet_and_folders_of_datasets_are_the_same_documents(rows, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    from pyarrow import ipc, parquet

    values = [json.loads(line) for line in rows.read_text().splitlines()]
    table = pyarrow.Table.from_pylist(values)
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    saved = tmp_path / "saved"  # as `Dataset.save_to_disk` of datasets 4 writes it
    saved.mkdir()
    parts = {"data-00000-of-00002.arrow": table[:4], "data-00001-of-00002.arrow": table[4:]}
    for name, part in parts.items():
        with ipc.new_stream(saved / name, table.schema) as stream:
            stream.write_table(part)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in parts]}))
    (saved / "dataset_info.json").write_text("{}")
    wanted = every(make("jsonl", rows, seq_len=16))["input_ids"]
    for path in (tmp_path / "a.parquet", saved):
        assert torch.equal(every(make("jsonl", path, seq_len=16))["input_ids"], wanted), path
    with pytest.raises(ConfigError, match="a.parquet: row 1: expected a field 'body', got 'text'"):
        make("jsonl", tmp_path / "a.parquet", field="body")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(ConfigError, match="cut.parquet cannot be read after row 0"):
        make("jsonl", tmp_path / "cut.parquet")
