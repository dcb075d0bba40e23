"""The systems that can be compared, by name: `NAME` or `NAME:option=value,option=value`."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from importlib import import_module

from bench.systems._base import Setup, System

__all__ = ["NAMES", "Setup", "Spec", "System", "adapter", "parse", "why_missing"]

NAMES: dict[str, tuple[str, str, int | None]] = {
    **{f"zerokit-{stage}": ("zerokit", "Zerokit", stage) for stage in (0, 1, 2, 3)},
    "fsdp2": ("fsdp2", "FSDP2", 3),
    "ddp": ("autocast", "DDP", 0),
    "plain": ("autocast", "Plain", None),
    "floor": ("floor", "Floor", None),
    **{f"deepspeed-{stage}": ("deepspeed", "DeepSpeed", stage) for stage in (1, 2, 3)},
    **{f"megatron-fsdp-{stage}": ("megatron_fsdp", "MegatronFSDP", stage) for stage in (1, 2, 3)},
    "megatron-fsdp": ("megatron_fsdp", "MegatronFSDP", 3),
}
"""Name → module in this package, class, stage."""
PINNED = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1"}
"""Environment of every system: no NVLink multicast, for which some hosts are not set up."""


@dataclass(frozen=True)
class Spec:
    """A system string, taken apart."""

    text: str
    name: str
    options: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables of its processes, from options `env.NAME=value`."""


def adapter(name: str) -> type[System]:
    """The class behind a name. Imports no peer."""
    module, cls, _ = NAMES[name]
    return getattr(import_module(f"bench.systems.{module}"), cls)


def parse(text: str) -> Spec:
    """Take a system string apart.

    Raises:
        ValueError: the name, an option or its value is unknown.
    """
    name, _, tail = text.partition(":")
    if name not in NAMES:
        raise ValueError(f"system '{text}': expected one of {', '.join(NAMES)}; got '{name}'.")
    options, env = {}, {}
    for pair in filter(None, tail.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"system '{text}': expected option=value, got '{pair}'.")
        if key.startswith("env."):
            env[key.removeprefix("env.")] = value
        else:
            options[key] = value
    _check(text, adapter(name), options, env)
    return Spec(text, name, options, env)


def _check(text: str, system: type[System], options: dict[str, str], env: dict[str, str]) -> None:
    for key in env.keys() & PINNED.keys():
        raise ValueError(f"system '{text}': {key} stays {PINNED[key]} in every run; leave it out.")
    if system.allowed is None:
        return
    allowed = {"compile": ("true", "false"), **system.allowed}
    for key, value in options.items():
        if key not in allowed:
            raise ValueError(f"system '{text}': expected options {', '.join(allowed)} or env.NAME; got '{key}'.")
        if allowed[key] and value not in allowed[key]:
            raise ValueError(f"system '{text}': {key} is one of {', '.join(allowed[key])}; got '{value}'.")


def why_missing(name: str) -> str | None:
    """Why a system cannot run here, in one line; None if it can."""
    package = adapter(name).package
    if package is None or importlib.util.find_spec(package) is not None:
        return None
    return f"{package} is not installed; pip install {package.replace('_', '-')}"
