from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.config.arguments import config
from zerokit.config.errors import ConfigError
from zerokit.config.parse import parse_fields, to_plain
from zerokit.config.schema import BatchConfig, Config, LaunchConfig, TrainConfig


@dataclass
class Inner:
    depth: int = 1


@dataclass
class Options:
    flag: bool = False
    count: int = 1
    rate: float = 0.5
    word: str = "a"
    choice: Literal["x", "y", 3] = "x"
    maybe: float | None = None
    either: int | float = 1
    numbers: list[int] = field(default_factory=list)
    pair: tuple[float, float] = (0.9, 0.99)
    table: dict[str, int] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    global_: int = 7

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count must not be negative, got {self.count}.")


@pytest.mark.parametrize(
    ("key", "value", "parsed"),
    [
        ("flag", True, True),
        ("count", 1e3, 1000),
        ("rate", 1, 1.0),
        ("word", 7, "7"),
        ("choice", 3, 3),
        ("maybe", None, None),
        ("maybe", 2, 2.0),
        ("either", 0.5, 0.5),
        ("either", 2, 2),
        ("numbers", [1, 2.0], [1, 2]),
        ("pair", [1, 0], (1.0, 0.0)),
        ("table", {"a": 1}, {"a": 1}),
        ("inner", {"depth": 3}, Inner(3)),
    ],
)
def test_values_become_typed(key, value, parsed):
    result = getattr(parse_fields(Options, {key: value}, "o"), key)
    assert result == parsed
    assert type(result) is type(parsed)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flag": 1}, "o.flag: expected true or false; got 1."),
        ({"flag": "yes"}, "o.flag: expected true or false; got yes."),
        ({"count": 1.5}, "o.count: expected a whole number; got 1.5."),
        ({"count": True}, "o.count: expected a whole number; got true."),
        ({"count": "1"}, "o.count: expected a whole number; got 1."),
        ({"count": float("inf")}, "o.count: expected a whole number; got inf."),
        ({"count": None}, "o.count: expected a whole number; got null."),
        ({"count": -1}, "o.count must not be negative, got -1."),
        ({"rate": "fast"}, "o.rate: expected a number; got fast."),
        ({"word": [1]}, "o.word: expected a text; got [1]."),
        ({"choice": "z"}, "o.choice: expected one of x, y, 3; got z."),
        ({"choice": 3.0}, "o.choice: expected one of x, y, 3; got 3.0."),
        ({"maybe": "no"}, "o.maybe: expected a number or null; got no."),
        ({"numbers": 3}, "o.numbers: expected a list [A, B]; got 3."),
        ({"numbers": [1, "b"]}, "o.numbers[1]: expected a whole number; got b."),
        ({"pair": [1]}, "o.pair: expected 2 values, got 1: [1]."),
        ({"table": {"a": "b"}}, "o.table.a: expected a whole number; got b."),
        ({"inner": {"dept": 3}}, "Unknown key o.inner.dept. Did you mean o.inner.depth? Options of o.inner: depth."),
        ({"globa": 3}, "Unknown key o.globa. Did you mean o.global?"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(ConfigError) as error:
        parse_fields(Options, values, "o")
    assert str(error.value).startswith(message)


@given(
    st.builds(
        Options,
        flag=st.booleans(),
        count=st.integers(0),
        rate=st.floats(allow_nan=False),
        word=st.text(),
        choice=st.sampled_from(["x", "y", 3]),
        maybe=st.none() | st.floats(allow_nan=False),
        numbers=st.lists(st.integers()),
        table=st.dictionaries(st.text(), st.integers()),
    )
)
def test_plain_values_are_the_inverse(options):
    assert parse_fields(Options, to_plain(options), "o") == options


def test_a_config_is_the_inverse_of_its_dict():
    original = config("zero.units=[Block]", "run.tags=[a,b]", "batch.micro=2")
    plain = original.to_dict()
    assert Config.from_dict(plain) == original
    assert plain["batch"] == {"global": original.batch.global_, "micro": 2, "accumulation": None}
    assert plain["optimizer"]["name"] == "adamw"
    assert _only_plain(plain)


def test_a_choice_is_needed_in_every_group():
    plain = config().to_dict()
    del plain["model"]
    with pytest.raises(ConfigError, match="model.name is missing: choose one with model=NAME. Registered: .*gpt"):
        Config.from_dict(plain)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TrainConfig, {"steps": 0}),
        (TrainConfig, {"clip_norm": 0.0}),
        (TrainConfig, {"loss_mean": "words"}),
        (TrainConfig, {"eval_samples": -1}),
        (TrainConfig, {"eval_batches": -1}),
        (BatchConfig, {"micro": 0}),
        (LaunchConfig, {"nproc": 0}),
        (LaunchConfig, {"timeout_s": 0.0}),
    ],
)
def test_limits_of_sections(kind, values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        parse_fields(kind, values, "section")


def _only_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _only_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_only_plain(item) for item in value)
    return value is None or type(value) in (str, int, float, bool)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("zero=stage3", "zero.shard_size=4", "zero.states=all"), (4, "all")),
        (("zero=stage1", "zero.shard_size=host"), ("host", "group")),
        (("zero=stage0",), ("all", "group")),
    ],
)
def test_groups_of_processes_are_a_number_or_a_word(words, expected):
    zero = config(*words).zero
    assert (zero.shard_size, zero.states) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("zero=stage0", "zero.shard_size=2"), "zero.shard_size: zero=stage0 divides nothing"),
        (("zero=stage3", "zero.shard_size=0"), "zero.shard_size must be at least 1, got 0"),
        (("zero=stage3", "zero.shard_size=node"), "zero.shard_size"),
    ],
)
def test_groups_that_cannot_be_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        config(*words)
