"""Values that a configuration takes from the environment, which may be secrets: what was written in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

NAME = "oc.env"
UNRESOLVED = "unresolved"
"""Key of a plain configuration that is no section."""


def shown(values: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration, as `Config.to_dict` gives it, as it may be written and sent: with `unresolved` in its
    place."""
    kept = {section: options for section, options in values.items() if section != UNRESOLVED}
    for key, text in values.get(UNRESOLVED, {}).items():
        kept = _put(kept, key.split("."), text)
    return kept


def _put(values: Any, keys: list[str], text: Any) -> Any:
    """A copy of nested values in which the one at `keys` is `text`."""
    if not keys:
        return text
    key: Any = int(keys[0]) if isinstance(values, list) else keys[0]
    copy = list(values) if isinstance(values, list) else dict(values)
    copy[key] = _put(values[key], keys[1:], text)
    return copy


def unresolved(composed: DictConfig, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The keys whose values come from the environment, with what was written: `${oc.env:NAME}`, also within a longer
    text or behind another key. values: `composed`, resolved."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    raw = OmegaConf.to_container(composed)
    with _names_for_values():
        try:
            named = OmegaConf.to_container(composed, resolve=True)
        except OmegaConfBaseException:  # what is made of a variable cannot be made of its name
            named = raw
    yield from _differing(raw, named, values, "")


@contextmanager
def _names_for_values() -> Iterator[None]:
    """Let interpolations of the environment show themselves."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    OmegaConf.register_new_resolver(NAME, lambda name, *_: f"${{{NAME}:{name}}}", replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver(NAME, oc.env, replace=True)


def _differing(raw: Any, named: Any, values: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict) and isinstance(named, dict):
        keys: Any = values
    elif isinstance(values, list) and isinstance(named, list) and len(values) == len(named):
        keys = range(len(values))
    else:
        if isinstance(raw, str) and NAME in raw:
            yield path, raw
        elif named != values:
            yield path, named
        return
    for key in keys:
        below = raw[key] if isinstance(raw, type(values)) else None
        yield from _differing(below, named[key], values[key], f"{path}.{key}" if path else str(key))
