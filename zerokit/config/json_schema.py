"""The configuration as JSON Schema (draft 7), by which editors complete and check YAML files.

Everything comes from the typed dataclasses and the registry, so components of one's own are described too.
"""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from zerokit.config import registry
from zerokit.config.compose import OVERLAYS
from zerokit.config.docs import option_docs
from zerokit.config.parse import defaults
from zerokit.config.paths import choices
from zerokit.config.schema import SECTIONS, Config

DRAFT = "http://json-schema.org/draft-07/schema#"
INTERPOLATION = {"type": "string", "pattern": r"\$\{.+\}|^\?\?\?$"}
"""What a YAML file may hold in place of any value: OmegaConf's interpolation, or `???` for one that must be given."""
SIMPLE = {bool: "boolean", int: "integer", float: "number", types.NoneType: "null"}

Schema = dict[str, Any]


def config_schema() -> Schema:
    """The schema of config.yaml, of overlays with `# @package _global_`, and of the config.yaml of a run."""
    sections = {name: section_schema(name) for name in Config.section_names()}
    hydra = {"type": "object", "description": "Settings of Hydra: hydra.run.dir, hydra.sweeper.params and others."}
    return _document("zerokit configuration", {**sections, "defaults": _defaults_list(), "hydra": hydra})


def group_schema(group: str) -> Schema:
    """The schema of the YAML files of a group, which hold one section without its name."""
    if group in OVERLAYS:
        return config_schema()
    section = _options_of_any(group) if group in registry.LISTS else section_schema(group)
    parts = [part["then"] for part in section.get("allOf", [])]
    for properties in (section["properties"], *(part["properties"] for part in parts)):
        properties["defaults"] = _defaults_list()
    return {"$schema": DRAFT, "title": f"zerokit {group}", **section}


def section_schema(section: str) -> Schema:
    """The schema of one section: of its options, which depend on `name` where it is a group of components."""
    if section in SECTIONS:
        return _object(SECTIONS[section])
    options = {name: _object(registry.options_type(section, name)) for name in registry.names(section)}
    if section in registry.LISTS:
        return {"type": "object", "properties": options, "additionalProperties": False}
    union = _union_of_properties(list(options.values()))
    name = {"enum": list(options), "description": f"The component: one of {', '.join(options)}."}
    return {
        "type": "object",
        "properties": {"name": name, **union},
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"required": ["name"], "properties": {"name": {"const": choice}}},
                "then": {"properties": {"name": {}, **kind["properties"]}, "additionalProperties": False},
            }
            for choice, kind in options.items()
        ],
    }


def _options_of_any(group: str) -> Schema:
    """The schema of a file that holds the options of one component and, but for its package, not which."""
    options = [_object(registry.options_type(group, name)) for name in registry.names(group)]
    return {"type": "object", "properties": _union_of_properties(options), "additionalProperties": False}


def value_schema(kind: Any) -> Schema:
    """The schema of a value of an annotated type, as `zerokit.config.parse` takes it."""
    if kind is Any:
        return {}
    if kind in SIMPLE:
        return {"type": SIMPLE[kind]}
    if kind is str:
        return {"type": ["string", "number"]}
    if dataclasses.is_dataclass(kind):
        return _object(kind)
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [value_schema(item) for item in arguments]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _or_interpolation(arguments[1] if arguments else Any)}
    items = [item for item in arguments if item is not Ellipsis]
    if origin is tuple and len(items) > 1:
        return {"type": "array", "items": [_or_interpolation(i) for i in items], "minItems": len(items),
                "maxItems": len(items)}  # fmt: skip
    return {"type": "array", "items": _or_interpolation(items[0] if items else Any)}


def _object(kind: type) -> Schema:
    """The schema of a dataclass: every option with its meaning and its default, none required."""
    docs, hints, values = option_docs(kind), get_type_hints(kind), defaults(kind)
    properties = {}
    for field, (key, default) in zip(dataclasses.fields(kind), values.items(), strict=True):
        text = {"description": docs[field.name]} if field.name in docs else {}
        properties[key] = {**text, "default": default, **_or_interpolation(hints[field.name])}
    text = {"description": " ".join(kind.__doc__.split())} if kind.__doc__ else {}
    return {"type": "object", **text, "properties": properties, "additionalProperties": False}


def _or_interpolation(kind: Any) -> Schema:
    schema = value_schema(kind)
    if not schema or schema.get("type") == ["string", "number"]:
        return schema
    return {"anyOf": [*schema.get("anyOf", [schema]), INTERPOLATION]}


def _union_of_properties(objects: list[Schema]) -> Schema:
    """Each property of any of them; where they differ, any of its schemas will do."""
    found: dict[str, list[Schema]] = {}
    for schema in objects:
        for key, value in schema["properties"].items():
            if value not in found.setdefault(key, []):
                found[key].append(value)
    return {key: values[0] if len(values) == 1 else {"anyOf": values} for key, values in found.items()}


def _defaults_list() -> Schema:
    """Hydra's list of the YAML files that a file is put together from."""
    groups = {}
    for group in (*registry.GROUPS, "zero", "launch", *OVERLAYS):
        names = sorted({*choices(group), *(registry.names(group) if group in registry.GROUPS else [])})
        for key in (group, f"/{group}", f"override {group}", f"override /{group}"):
            groups[key] = {"anyOf": [{"enum": [*names, None]}, {"type": "string"}]}
    for group in registry.LISTS:
        for key in (group, f"/{group}", f"override {group}", f"override /{group}"):
            groups[key] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    choice = {"type": "object", "properties": groups, "maxProperties": 1, "minProperties": 1}
    text = "The files this one is put together from, in this order; _self_ is this file."
    return {"type": "array", "description": text, "items": {"anyOf": [{"type": "string"}, choice]}}


def _document(title: str, properties: Schema) -> Schema:
    return {"$schema": DRAFT, "title": title, "type": "object", "properties": properties, "additionalProperties": False}
