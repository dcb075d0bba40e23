from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from omegaconf import OmegaConf

from tests.commands import python, zerokit
from tests.config.arguments import config
from zerokit.config.compose import FOLDER_GROUPS, OVERLAYS
from zerokit.config.errors import ConfigError
from zerokit.config.json_schema import config_schema, group_schema
from zerokit.config.paths import CONF
from zerokit.config.schema import Config

WHOLE = Draft7Validator(config_schema())
FILES = sorted(CONF.rglob("*.yaml"), key=str)


def validator(file) -> Draft7Validator:
    group = file.parent.name
    return WHOLE if file.name == "config.yaml" or group in OVERLAYS else Draft7Validator(group_schema(group))


@pytest.mark.parametrize("schema", [config_schema(), *(group_schema(group) for group in FOLDER_GROUPS)])
def test_schemas_are_valid_themselves(schema):
    Draft7Validator.check_schema(schema)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_yaml_of_zerokit_fits(file):
    assert [error.message for error in validator(file).iter_errors(OmegaConf.to_container(OmegaConf.load(file)))] == []


def test_the_config_of_a_run_fits():
    assert WHOLE.is_valid(config("zero=stage3", "precision=fp16", "optimizer=sgd", "model=llama_1b").to_dict())


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        ({"train": {"steps": 10}}, True),
        ({"train": {"stepz": 10}}, False),
        ({"train": {"steps": "ten"}}, False),
        ({"train": {"steps": "${batch.global}"}}, True),
        ({"train": {"clip_norm": None}}, True),
        ({"train": {"compile": "yes"}}, False),
        ({"batch": {"global": 4, "accumulation": None}}, True),
        ({"zero": {"stage": 4}}, False),
        ({"zero": {"units": "blocks"}}, False),
        ({"optimizer": {"name": "adamw", "beta1": 0.9}}, True),
        ({"optimizer": {"name": "sgd", "beta1": 0.9}}, False),
        ({"optimizer": {"beta1": 0.9}}, True),
        ({"optimizer": {"beta3": 0.9}}, False),
        ({"optimizer": {"name": "adamm"}}, False),
        ({"data": {"name": "text", "files": ["a.txt"]}}, True),
        ({"data": {"name": "text", "files": "a.txt"}}, False),
        ({"run": {"name": 7, "tags": ["a", "b"]}}, True),
        ({"nonsense": {}}, False),
        ({"hydra": {"mode": "MULTIRUN"}, "defaults": ["_self_", {"override /tracker": "none"}]}, True),
        ({"defaults": [{"zero": "stage3", "precision": "bf16"}]}, False),
    ],
)
def test_what_a_config_refuses_the_schema_refuses(values, fits):
    assert WHOLE.is_valid(values) is fits


BASE = config().to_dict()
FRACTIONS = st.floats(-1, 1).filter(lambda value: value != int(value))  # to JSON Schema 0.0 is the choice 0
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 70000), FRACTIONS, st.sampled_from(["auto", "adamw", "bf16", "x"]),
    st.lists(st.sampled_from(["a", "b"]), max_size=2),
)  # fmt: skip
KEYS = st.sampled_from([(section, key) for section, values in BASE.items() for key in values])


@settings(max_examples=300, deadline=None)
@given(KEYS, VALUES)
def test_the_schema_is_never_stricter_than_the_config(place, value):
    """A value that a run takes fits; a wrong type or choice is refused by both. Ranges are the config's alone."""
    section, key = place
    changed = {**BASE, section: {**BASE[section], key: value}}
    try:
        Config.from_dict(changed)
    except ConfigError as error:
        if re.search(r"expected (true or false|a whole number|a number|a text|one of|null|a list|keys)", str(error)):
            assert not WHOLE.is_valid(changed), error
        return
    assert WHOLE.is_valid(changed)


def test_the_command_prints_and_writes(tmp_path):
    assert json.loads(zerokit("schema", cwd=tmp_path).stdout) == json.loads(json.dumps(config_schema()))
    assert json.loads(zerokit("schema", "optimizer", cwd=tmp_path).stdout)["title"] == "zerokit optimizer"
    result = zerokit("schema", "--write", "schemas", cwd=tmp_path)
    names = {file.name.partition(".")[0] for file in (tmp_path / "schemas").glob("*.schema.json")}
    assert names == {"config", *FOLDER_GROUPS} - set(OVERLAYS)
    assert "# yaml-language-server: $schema=schemas/config.schema.json" in result.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimiser"], "There is no group 'optimiser'. Did you mean optimizer?"),
        (["--write"], "Usage: zerokit schema"),
        (["a", "b"], "Usage: zerokit schema"),
        (["--write", "file/x"], "schema --write file/x: Not a directory."),
    ],
)
def test_a_wrong_command_is_explained(tmp_path, words, message):
    (tmp_path / "file").write_text("")
    result = zerokit("schema", *words, cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert message in result.stderr


def test_components_of_ones_own_are_described(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "import zerokit\n"
        "@dataclass\n"
        "class Options:\n"
        "    width: int = 3\n"
        '    """Width of it."""\n'
        "@zerokit.register('model', 'mine', Options)\n"
        "def build(options, data): ...\n"
        "zerokit.main()\n"
    )
    schema = json.loads(python("mine.py", "schema", "model", cwd=tmp_path).stdout)
    assert schema["properties"]["width"]["description"] == "Width of it."
    assert Draft7Validator(schema).is_valid({"name": "mine", "width": 2})
    assert not Draft7Validator(schema).is_valid({"name": "gpt", "width": 2})
