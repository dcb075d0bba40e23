"""The cache of prepared data: shared, named by what it is made of; what is cut, changed or foreign is made again."""

from __future__ import annotations

import json
import os
import re
import shutil
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from tests.data.documents import jsonl, make
from zerokit.config.errors import ConfigError
from zerokit.data import _documents


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ZEROKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def made(monkeypatch) -> list[Path]:
    """Where documents were made into tokens."""
    folders = []
    original = _documents.write_store

    def noted(folder, *arguments):
        folders.append(folder)
        return original(folder, *arguments)

    monkeypatch.setattr(_documents, "write_store", noted)
    return folders


def rows(tmp_path, count: int = 40) -> Path:
    return jsonl(tmp_path / "rows.jsonl", [{"text": f"row number {i}"} for i in range(count)])


def content(source) -> torch.Tensor:
    return source.batch(0, len(source))["input_ids"]


def store(cache: Path) -> Path:
    """The folder of the tokens."""
    (found,) = [path.parent for path in cache.glob("*/train.tokens")]
    return found


def test_text_is_made_into_tokens_once_for_any_row_length_and_place(tmp_path, cache, made):
    path = rows(tmp_path)
    first = make("jsonl", path, seq_len=32)
    make("jsonl", path, seq_len=20, packing="join", seed=1)
    moved = path.with_name("moved.jsonl")
    shutil.copy(path, moved)
    assert torch.equal(content(make("jsonl", moved, seq_len=32)), content(first)) and len(made) == 1
    assert not list(cache.glob("*.tmp"))


def test_other_contents_and_tokenizing_options_make_another(tmp_path, cache, made):
    path = rows(tmp_path)
    make("jsonl", path, seq_len=32)
    times = path.stat()
    path.write_bytes(path.read_bytes().replace(b"row", b"cow"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as large and as old as before
    assert "cow" in make("jsonl", path, seq_len=32).decode(content(make("jsonl", path, seq_len=32))[0].tolist())
    make("jsonl", path, seq_len=32, held_out_percent=20)
    assert len(made) == 3


def test_a_damaged_cache_is_refused_and_made_again(tmp_path, cache, made, caplog):
    path = rows(tmp_path)
    wanted = content(make("jsonl", path, seq_len=32)).clone()
    folder = store(cache)
    meta = json.loads((folder / "meta.json").read_text())

    def cut(file: Path) -> None:
        file.write_bytes(file.read_bytes()[:-2])

    def change(file: Path) -> None:
        data = bytearray(file.read_bytes())
        data[7] ^= 1
        file.write_bytes(data)

    def foreign(_: Path) -> None:
        (folder / "meta.json").write_text(json.dumps({**meta, "key": {**meta["key"], "tokenizer": "other"}}))

    damages = [
        (cut, "train.tokens", "train.tokens has .* bytes instead of"),
        (change, "train.tokens", "train.tokens is not as it was written"),
        (change, "held_out.ends", "held_out.ends is not as it was written"),
        (Path.unlink, "train.ends", "its meta.json cannot be read"),
        (cut, "meta.json", "its meta.json cannot be read"),
        (foreign, "meta.json", "it was made of something else"),
    ]
    for number, (damage, name, message) in enumerate(damages, 2):
        caplog.clear()
        damage(folder / name)
        assert torch.equal(content(make("jsonl", path, seq_len=32)), wanted), name
        assert len(made) == number and len(caplog.messages) == 1
        assert caplog.messages[0].startswith(str(folder)) and re.search(message, caplog.messages[0])


def test_an_error_or_a_killed_process_leaves_no_cache(tmp_path, cache, made):
    path = jsonl(tmp_path / "rows.jsonl", [{"text": "good"}] * 600 + ["{"])
    for _ in range(2):
        with pytest.raises(ConfigError, match="rows.jsonl:601"):
            make("jsonl", path, seq_len=32)
    assert len(made) == 2 and not list(cache.glob("*.tmp")) and not list(cache.glob("*/train.tokens"))


def _build(path: Path, queue) -> None:
    built = []
    original = _documents.write_store
    _documents.write_store = lambda *arguments: built.append(1) or original(*arguments)
    source = make("jsonl", path, seq_len=32)
    queue.put((len(built), int(content(source).sum())))


def test_processes_that_start_together_make_it_once(tmp_path, cache):
    path, context = rows(tmp_path, 1000), get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_build, args=(path, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(built for built, _ in found) == [0, 0, 0, 1] and len({total for _, total in found}) == 1


def _own_bytes() -> int:
    """Memory that this process has for itself, without files that it has mapped."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_tokens_stay_on_the_disk(tmp_path, cache):
    path = tmp_path / "large.txt"
    path.write_bytes(os.urandom(1 << 20) * 64)
    make("text", path, seq_len=1024)
    before = _own_bytes()
    source = make("text", path, seq_len=1024)
    for start in range(0, len(source), 1000):
        source.batch(start, 100)
    assert _own_bytes() - before < 16 << 20


def test_a_cache_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZEROKIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        ConfigError, match="the cache .*file/cache cannot be used: Not a directory. Choose .*ZEROKIT_CACHE"
    ):
        make("jsonl", rows(tmp_path), seq_len=32)
