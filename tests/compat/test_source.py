from __future__ import annotations

import base64
import json

import pytest

from zerokit.compat.deepspeed.source import load
from zerokit.config.errors import ConfigError

CONFIG = {"train_batch_size": 8, "zero_optimization": {"stage": 1}}


def test_a_dict_a_path_and_base64_are_the_same(tmp_path):
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(CONFIG))
    encoded = base64.urlsafe_b64encode(json.dumps(CONFIG).encode()).decode()
    assert load(CONFIG) == load(str(file)) == load(file) == load(encoded) == CONFIG


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected a file, this is a folder"):
        load(tmp_path)


def test_a_key_given_twice_is_refused_at_any_depth(tmp_path):
    file = tmp_path / "ds.json"
    file.write_text('{"fp16": {"enabled": true, "enabled": false}}')
    with pytest.raises(ConfigError, match="'enabled' is given twice: true and false"):
        load(file)
    text = base64.urlsafe_b64encode(b'{"steps_per_print": 1, "steps_per_print": 2}').decode()
    with pytest.raises(ConfigError, match="'steps_per_print' is given twice: 1 and 2"):
        load(text)


def test_hjson_is_read_where_its_library_is_or_says_so(tmp_path):
    file = tmp_path / "ds.hjson"
    file.write_text("{\n  # a comment\n  train_batch_size: 8\n}")
    try:
        import hjson  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"ds.hjson, line 2, column 3: .*pip install hjson"):
            load(file)
    else:
        assert load(file) == {"train_batch_size": 8}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.json", "missing.json: there is no such file"),
        (7, "is a dict, a path or base64; got int"),
        (base64.urlsafe_b64encode(b"[1]").decode(), r"base64: expected keys with values \{...\}, got \[1\]"),
    ],
)
def test_what_cannot_be_read_is_named(source, message):
    with pytest.raises(ConfigError, match=message):
        load(source)
