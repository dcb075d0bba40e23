"""Row 15 of the fault matrix: what a malicious or careless state folder may hold, and a sample of row 3's damage."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tests.state.corruption import corrupt
from tests.state.trained import fresh, trained, values
from zerokit.state import manifest as manifests
from zerokit.state.errors import DamagedState, StateError
from zerokit.state.manifest import FileFacts, Manifest, Part, TensorFacts, decode, read_manifest
from zerokit.state.read import StateReader, verify

FILE = "rank-00000-of-00001.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A sound state of one rank."""
    folder = tmp_path_factory.mktemp("sound") / "s"
    trained(2).save(folder)
    return folder


@pytest.fixture
def state(sound, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(sound, tmp_path / "s"))


def rewrite(folder: Path, change) -> None:
    """Change the body of a manifest and sign it again, as an attacker would."""
    body = json.loads((folder / "manifest.json").read_bytes())["manifest"]
    change(body)
    sign(folder, json.dumps(body, separators=(",", ":")))


def sign(folder: Path, text: str) -> None:
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(f'{{"manifest":{text},"sha256":"{digest}"}}\n')


def first_file(name: str):
    return lambda body: body["files"][0].update(name=name)


def parts(*found):
    return lambda body: body["tensors"]["weight/embed.weight"].update(parts=found)


def bump(body):
    body["version"] = 99


def wider(body):
    body["tensors"]["weight/embed.weight"].update(shape=[23, 13])


HOSTILE = {
    "parent": (first_file("../outside.safetensors"), "cannot be the name"),
    "absolute": (first_file("/etc/passwd"), "cannot be the name"),
    "nul": (first_file("rank-00000-of-00001.safetensors\0x"), "cannot be the name"),
    "pickle": (first_file("rank-00000-of-00001.pt"), "cannot be the name"),
    "number": (first_file(7), "cannot be the name"),
    "gap": (parts([0, 0, 100], [0, 101, 276]), "leave a gap at element 100"),
    "overlap": (parts([0, 0, 100], [0, 99, 276]), "overlap at element 99"),
    "short": (parts([0, 0, 100]), "end at element 100 of 276"),
    "long": (parts([0, 0, 300]), "end at element 300 of 276"),
    "negative": (parts([0, -1, 276]), "expected a count, found -1"),
    "fraction": (parts([0, 0.0, 276]), "expected a count, found 0.0"),
    "truth": (parts([False, 0, 276]), "expected a count, found False"),
    "other file": (parts([5, 0, 276]), "names file 5"),
    "huge": (lambda b: b["tensors"]["weight/embed.weight"].update(shape=[1 << 62]), "expected a count"),
    "format": (lambda b: b["tensors"]["weight/embed.weight"].update(dtype="OBJECT"), "unknown format 'OBJECT'"),
    "shape": (lambda b: b["tensors"]["weight/embed.weight"].update(shape="23"), "expected a count|malformed"),
    "no files": (lambda b: b.pop("files"), "malformed"),
    "tensors": (lambda b: b.update(tensors=[]), "malformed"),
    "facts": (lambda b: b.update(facts="x"), "facts must be"),
    "another format": (lambda b: b.update(format="torch"), "the format is 'torch'"),
    "bytes": (lambda b: b["files"][0].update(bytes=1 << 40), f"said to have {1 << 40} bytes"),
    "digest": (lambda b: b["files"][0].update(xxh3="0" * 32), "do not match its digest"),
    "header": (wider, "end at element|does not say what the manifest says"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_row_15_a_hostile_manifest_is_refused(kind, state):
    change, message = HOSTILE[kind]
    rewrite(state, change)
    engine = fresh(2)
    before = values(engine)
    with pytest.raises(DamagedState, match=message) as error:
        engine.load(state)
    assert str(state) in str(error.value) and values(engine) == before


def test_row_15_an_unknown_version_is_refused_by_name(state):
    rewrite(state, bump)
    with pytest.raises(StateError, match="version 99 of the format; this zerokit reads version 1"):
        fresh(2).load(state)


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', "NaN", "[" * 100_000, "9" * 10_000, "nonsense"])
def test_row_15_hostile_json_is_refused(text, state):
    sign(state, text)
    with pytest.raises(DamagedState, match="manifest.json is"):
        verify(state)


def test_row_15_links_and_folders_in_place_of_files_are_refused(state, tmp_path):
    outside = tmp_path / "outside"
    (state / FILE).rename(outside)
    (state / FILE).symlink_to(outside)
    with pytest.raises(DamagedState, match=f"{FILE} is no plain file"):
        verify(state)
    (state / FILE).unlink()
    (state / FILE).mkdir()
    with pytest.raises(DamagedState, match=f"{FILE} is no plain file"):
        verify(state)


def header(folder: Path, change) -> None:
    """Change the header of the rank's file, and the manifest so that lengths and digests fit."""
    data = (folder / FILE).read_bytes()
    size = int.from_bytes(data[:8], "little")
    text = change(json.loads(data[8 : 8 + size]))
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    text += b" " * (-len(text) % 8)
    data = len(text).to_bytes(8, "little") + text + data[8 + size :]
    (folder / FILE).write_bytes(data)
    facts = {"bytes": len(data), "xxh3": xxhash.xxh3_128(data).hexdigest()}
    rewrite(folder, lambda body: body["files"][0].update(facts))


def renamed(entries):
    entries["weight/other"] = entries.pop("weight/embed.weight")
    return entries


def overlapping(entries):
    entries["weight/embed.weight"]["data_offsets"] = entries["weight/norm.bias"]["data_offsets"]
    return entries


@pytest.mark.parametrize("change", [renamed, overlapping, lambda entries: b"{", lambda entries: b"[" * 4096])
def test_row_15_a_hostile_header_is_refused(change, state):
    header(state, change)
    with pytest.raises(DamagedState, match=FILE):
        fresh(2).load(state)


def test_row_15_a_giant_header_is_refused(state):
    data = bytearray((state / FILE).read_bytes())
    data[:8] = (1 << 40).to_bytes(8, "little")
    (state / FILE).write_bytes(data)
    digest = xxhash.xxh3_128(bytes(data)).hexdigest()
    rewrite(state, lambda body: body["files"][0].update(xxh3=digest))
    with pytest.raises(DamagedState, match=FILE):
        fresh(2).load(state)


def test_row_15_a_giant_manifest_is_refused_unread(state, monkeypatch):
    monkeypatch.setattr(manifests, "MOST_BYTES", 100)
    with pytest.raises(DamagedState, match="longer than any manifest"):
        verify(state)


def test_row_15_no_pickle_is_on_any_load_path():
    root = Path(manifests.__file__).parents[1]
    for file in [*(root / "state").glob("*.py"), root / "zero" / "access" / "persist.py", root / "train" / "saving.py"]:
        text = file.read_text()
        assert not any(word in text for word in ("import pickle", "torch.load", "torch.save", "_object(")), file


def test_row_3_random_damage_is_always_found(state):
    """A sample; `tests/chaos` does ten thousand and compares other formats."""
    generator = random.Random(3)
    for number in range(120):
        undo = corrupt(state, generator)
        with pytest.raises(DamagedState) as error:
            verify(state)
        assert str(state) in str(error.value), number
        undo()
    verify(state)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte_of_a_manifest_is_found(place, mask):
    data = bytearray(MANIFEST.encode())
    assert decode(bytes(data), "m").tensors == MANIFEST.tensors
    data[place % len(data)] ^= mask
    with pytest.raises(DamagedState):
        decode(bytes(data), "m")


MANIFEST = Manifest(
    (FileFacts(FILE, 48, "0" * 32),), {"weight/a": TensorFacts("F32", (3, 4), (Part(0, 0, 12),))}, {"step": 3}, [None]
)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_parts_cover_exactly_once_or_are_refused(lengths, data):
    edges = [0]
    for length in lengths:
        edges.append(edges[-1] + length)
    found = [Part(i, a, b) for i, (a, b) in enumerate(zip(edges, edges[1:], strict=False))]
    manifests.check_cover("t", TensorFacts("F32", (edges[-1],), tuple(found)), len(found), "m")
    victim = data.draw(st.integers(0, len(found) - 1))
    shift = data.draw(st.sampled_from([-1, 1]))
    old = found[victim]
    found[victim] = Part(old.file, old.start, old.stop + shift)
    with pytest.raises(DamagedState):
        manifests.check_cover("t", TensorFacts("F32", (edges[-1],), tuple(found)), len(found), "m")


def test_a_reader_gives_any_run_of_elements(sound):
    manifest = read_manifest(sound)
    with StateReader(sound, manifest) as reader:
        whole = reader.tensor("weight/embed.weight").flatten()
        for start, stop in ((0, 276), (5, 6), (100, 276), (7, 7)):
            found = [v for _, values in reader.segments("weight/embed.weight", start, stop) for v in values.tolist()]
            assert found == whole[start:stop].tolist()


def test_a_folder_that_is_not_there_is_no_damaged_state(tmp_path):
    with pytest.raises(DamagedState, match=r"There is no folder .*nowhere; expected a state\."):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"training": [1]}, "facts.training must be an object"),
        ({"training": None}, "facts.training must be an object"),
        ({"trainer": 7}, "facts.trainer must be an object"),
        ({"config": "x"}, "facts.config must be an object"),
        ({"config": {"train": True}}, "facts.config.train must be an object"),
        ({"callbacks": []}, "facts.callbacks must be an object"),
        ({"tracker": True}, "facts.tracker must be an object"),
        ({"step": "4"}, "facts.step must be a count"),
        ({"step": -1}, "facts.step must be a count"),
        ({"step": True}, "facts.step must be a count"),
        ({"world": 1.5}, "facts.world must be a count"),
    ],
)
def test_facts_of_another_kind_are_refused(facts, words):
    """`training: [1]` had no key in common with this training's, and so differed in none."""
    with pytest.raises(DamagedState, match=words):
        decode(Manifest((), {}, facts).encode(), "m")


def test_a_length_that_the_tensors_cannot_have_is_refused_before_the_file_is_read():
    tensors = {"a": TensorFacts("F32", (4,), (Part(0, 0, 4),))}
    for length in (1 << 40, 15):
        files = (FileFacts("rank-00000-of-00001.safetensors", length, "0" * 32),)
        with pytest.raises(DamagedState, match="is said to have"):
            decode(Manifest(files, tensors).encode(), "m")


def test_a_sparse_manifest_takes_no_memory(tmp_path):
    with open(tmp_path / "manifest.json", "wb") as file:
        file.write(b'{"manifest":')
        file.truncate(1 << 29)
    began = time.monotonic()
    with pytest.raises(DamagedState, match="cut or altered"):
        read_manifest(tmp_path)
    assert time.monotonic() - began < 1
