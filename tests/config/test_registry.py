from __future__ import annotations

from dataclasses import dataclass, fields

import pytest

from zerokit.config import registry
from zerokit.config.docs import option_docs
from zerokit.config.errors import ConfigError
from zerokit.config.registry import Choice, register
from zerokit.config.schema import SECTIONS


@dataclass
class Options:
    lr: float = 0.5
    """Learning rate."""


@pytest.fixture(autouse=True)
def restored():
    before = {group: dict(components) for group, components in registry._components.items()}
    yield
    for group, components in before.items():
        registry._components[group].clear()
        registry._components[group].update(components)


def test_a_decorated_builder_gets_options_and_context():
    @register("optimizer", "mine", Options)
    def build(options, scale):
        return options.lr * scale

    assert "mine" in registry.names("optimizer")
    assert registry.options_type("optimizer", "mine") is Options
    assert registry.build("optimizer", Choice("mine", Options(lr=2.0)), scale=3) == 6.0
    assert build(Options(), 2) == 1.0, "the decorator returns the function unchanged"


def test_a_lazy_builder_is_imported_when_built():
    register("optimizer", "lazy", builder="collections:OrderedDict")
    assert registry.build("optimizer", Choice("lazy", {"a": 1})) == {"a": 1}
    register("optimizer", "broken", builder="zerokit.no_such_module:build")
    with pytest.raises(ModuleNotFoundError):
        registry.build("optimizer", Choice("broken", None))


def test_names_of_zerokit_are_told_from_added_ones():
    assert registry.added("optimizer") == []
    register("optimizer", "mine", Options)(lambda options: None)
    assert registry.added("optimizer") == ["mine"]


def test_a_name_is_taken_once():
    register("optimizer", "mine", Options, "one:build_one")
    register("optimizer", "mine", Options, "other_name_of_the_same_module:build_one")
    with pytest.raises(ValueError, match="registered twice: by .*build_one and by two:build_two"):
        register("optimizer", "mine", Options, "two:build_two")


@dataclass
class NameTaken:
    name: str = ""


@dataclass
class NoDefault:
    lr: float


@pytest.mark.parametrize(
    ("group", "options", "message"),
    [
        ("optimiser", Options, "no group 'optimiser'. Did you mean optimizer"),
        ("optimizer", dict, "must be a dataclass"),
        ("optimizer", NameTaken, "field 'name'"),
        ("optimizer", NoDefault, "'lr'.* needs a default"),
    ],
)
def test_what_cannot_be_registered(group, options, message):
    with pytest.raises(ValueError, match=message):
        register(group, "mine", options)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="no optimizer 'adamv'. Did you mean adam"):
        registry.options_type("optimizer", "adamv")


def _all_options():
    for group in (*registry.GROUPS, *registry.LISTS):
        for name in registry.names(group):
            yield pytest.param(registry.options_type(group, name), id=f"{group}={name}")
    for section, kind in SECTIONS.items():
        yield pytest.param(kind, id=section)


@pytest.mark.parametrize("kind", list(_all_options()))
def test_every_option_has_a_docstring(kind):
    docs = option_docs(kind)
    assert [field.name for field in fields(kind) if not docs.get(field.name)] == []


def test_docstrings_of_a_base_class_are_found():
    @dataclass
    class More(Options):
        eps: float = 0.1
        """Small."""

    assert option_docs(More) == {"lr": "Learning rate.", "eps": "Small."}
