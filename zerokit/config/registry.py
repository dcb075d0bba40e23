"""Which components exist: a name in a group, a dataclass of options, and a builder.

Components of zerokit lie in the package `zerokit.<group>`; those of other packages are found through the entry point
group `zerokit.components`; a script registers its own before it calls `zerokit.main()`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from zerokit.config.errors import ConfigError, suggestion

GROUPS = ("precision", "optimizer", "scheduler", "checkpointing", "model", "adapter", "data", "tracker")
"""Groups of which a run has one component."""
DEFAULTS = {"adapter": "none"}
"""Components of groups that a configuration need not name."""
LISTS = ("callbacks",)
"""Groups of which a run has any number, in an order."""
ENTRY_POINTS = "zerokit.components"


@dataclass(frozen=True)
class Choice:
    """A component picked by the configuration."""

    name: str
    """Name under which the component is registered in its group."""
    options: Any
    """Instance of the options dataclass that the component was registered with."""


@dataclass
class NoOptions:
    """Options of a component that has none."""


@dataclass(frozen=True)
class Component:
    """What is registered under one name of a group."""

    options: type
    builder: Callable[..., Any] | str

    @property
    def origin(self) -> str:
        """Where the builder is defined, as `module:name`."""
        if isinstance(self.builder, str):
            return self.builder
        return f"{self.builder.__module__}:{self.builder.__qualname__}"


_components: dict[str, dict[str, Component]] = {group: {} for group in (*GROUPS, *LISTS)}
_discovered: set[str] = set()


def register(group: str, name: str, options: type = NoOptions, builder: str | None = None) -> Any:
    """Register a component; use it as a decorator of the builder, or give the builder as "module:attribute".

    Args:
        group: one of `GROUPS` or `LISTS`.
        name: the name that configs use.
        options: a dataclass in which every field has a default and an attribute docstring.
        builder: where to find the builder, imported when it is first needed. Without it the call is a decorator.
            Builders are called as `builder(options, **context)`.

    Raises:
        ValueError: if the group does not exist, `options` is no dataclass, or the name is taken.
    """
    if group not in _components:
        groups = ", ".join(_components)
        raise ValueError(f"There is no group '{group}'.{suggestion(group, _components)} Groups: {groups}.")
    if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
        raise ValueError(f"The options of {group} '{name}' must be a dataclass, got {options!r}.")
    _check_fields(group, name, options)
    if builder is not None:
        _add(group, name, Component(options, builder))
        return None

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        _add(group, name, Component(options, function))
        return function

    return decorate


def names(group: str) -> list[str]:
    """Return the names registered in a group, sorted."""
    return sorted(_group(group))


def added(group: str) -> list[str]:
    """Return the names registered in a group by other code than zerokit's, sorted."""
    return sorted(name for name, component in _group(group).items() if not component.origin.startswith("zerokit."))


def options_type(group: str, name: str) -> type:
    """Return the options dataclass of a component.

    Raises:
        ConfigError: if the group has no such component.
    """
    return _component(group, name).options


def of_script() -> dict[str, dict[str, Component]]:
    """Return what the script that this process runs has registered; another process would not find it by import."""
    return {
        group: {name: component for name, component in known.items() if component.origin.startswith("__main__:")}
        for group, known in _components.items()
    }


def restore(components: dict[str, dict[str, Component]]) -> None:
    """Register components of `of_script` in this process."""
    for group, known in components.items():
        _components[group].update(known)


def build(group: str, choice: Choice, **context: Any) -> Any:
    """Call the builder of the chosen component with its options and the context.

    Raises:
        ConfigError: if the group has no such component.
    """
    component = _component(group, choice.name)
    builder = component.builder
    return (_load(builder) if isinstance(builder, str) else builder)(choice.options, **context)


def _check_fields(group: str, name: str, options: type) -> None:
    for field in dataclasses.fields(options):
        if field.name == "name":
            raise ValueError(
                f"The options of {group} '{name}' have a field 'name', but that key holds the component's name."
            )
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"Option '{field.name}' of {group} '{name}' needs a default.")


def _add(group: str, name: str, component: Component) -> None:
    present = _components[group].get(name)
    # A module may be run twice under two names (`__main__` and its own): the same function is no conflict.
    if present and present.origin.partition(":")[2] != component.origin.partition(":")[2]:
        raise ValueError(
            f"{group} '{name}' is registered twice: by {present.origin} and by {component.origin}. Rename one of them."
        )
    _components[group][name] = component


def _component(group: str, name: str) -> Component:
    known = _group(group)
    if name not in known:
        registered = ", ".join(sorted(known))
        where, kind = (group, group.removesuffix("s")) if group in LISTS else (f"{group}.name", group)
        raise ConfigError(f"{where}: there is no {kind} '{name}'.{suggestion(name, known)} Registered: {registered}.")
    return known[name]


def _group(group: str) -> dict[str, Component]:
    if group not in _discovered:
        _discovered.add(group)
        _discover(group)
    return _components[group]


def _discover(group: str) -> None:
    package = f"zerokit.{group}"
    if importlib.util.find_spec(package) is not None:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{package}.{module.name}")
    if "entry points" not in _discovered:
        _discovered.add("entry points")
        for entry_point in entry_points(group=ENTRY_POINTS):
            entry_point.load()


def _load(path: str) -> Callable[..., Any]:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
