"""The engine as a library: a model and a few settings, in a training loop of one's own."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from zerokit.comm.process import close_group, device_of, open_group
from zerokit.config import registry
from zerokit.config.batch import resolve_batch
from zerokit.config.errors import ConfigError
from zerokit.config.parse import spell
from zerokit.config.schema import BatchConfig, Config
from zerokit.train.assemble import build_engine, communicator, wrap_blocks
from zerokit.train.client import ClientEngine
from zerokit.train.first_values import first_values
from zerokit.train.takeover import Division, choices, divide
from zerokit.zero.engine import Engine

log = logging.getLogger(__name__)

DEFAULTS: dict[str, Any] = {
    "precision": "fp32",
    "optimizer": "adamw",
    "scheduler": "constant",
    "checkpointing": "none",
    "model": "mlp",
    "data": "synthetic",
    "tracker": "none",
}
EXAMPLES = {
    "zero": '{"stage": 3}',
    "precision": '{"name": "bf16"}',
    "optimizer": '{"name": "adamw"}',
    "checkpointing": '{"name": "full"}',
    "train": '{"clip_norm": 1.0}',
    "batch": '{"accumulation": 4}',
    "launch": '{"timeout_s": 600}',
}
"""Options of every section that `initialize` uses, for its errors."""


def initialize(
    model: nn.Module, config: Mapping[str, Any] | None = None, *, optimizer: torch.optim.Optimizer | None = None
) -> Engine:
    """Divide a model's training state among the ranks and return its engine.

    model: with real values (those of rank 0 count; the other ranks may have it on the meta device), or built under
        `torch.device("meta")`, whose modules then initialise themselves on the ranks. It must not have been moved to a
        device or wrapped before.
    config: groups as on the command line: `{"zero": {"stage": 3}, "precision": "bf16", "optimizer": {"name": "adamw",
        "lr": 3e-4}, "train": {"clip_norm": 1.0}, "batch": {"accumulation": 4}}`. A name alone takes a group's defaults.
        Nothing is clipped unless `train.clip_norm` says so.
    optimizer: of torch.optim, for the model's parameters, in place of `config["optimizer"]`. Its groups keep their
        hyperparameters; learning rates and the momentum may change from step to step, by torch's schedulers for one.

    Under torchrun the process group is opened if none is. Raises ConfigError, naming the key.
    """
    cfg = _typed({} if config is None else config)
    division = None if optimizer is None else _divide(model, optimizer, config or {})
    names = {parameter: name for name, parameter in model.named_parameters()}
    device = _join(cfg)
    comm = communicator(cfg, device)
    wrap_blocks(model, cfg, device)
    accumulation = _accumulation(cfg.batch, comm.world)
    own = first_values(model, comm)
    if division is None:
        return build_engine(model, cfg, comm, accumulation, **own)
    engine = build_engine(model, cfg, comm, accumulation, ClientEngine, division.groups, **own)
    engine.follow(optimizer, names, division)
    return engine


def _divide(model: nn.Module, optimizer: Any, config: Mapping[str, Any]) -> Division:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"optimizer=: expected an optimizer of torch.optim, got {spell(optimizer)}; zerokit's are named in the "
            f"configuration: {EXAMPLES['optimizer']}."
        )
    if "optimizer" in config:
        raise ConfigError("optimizer: given twice, in the configuration and as optimizer=; leave one out.")
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    groups = zip(optimizer.param_groups, choices(optimizer), strict=True)
    division = divide(model, [(group["params"], choice) for group, choice in groups])
    if division.left:
        log.warning(division.told())
    return division


def _accumulation(batch: BatchConfig, world: int) -> int:
    """Micro-batches of a step, which sizes that are given fix."""
    if batch.global_ is None and batch.micro is None:
        return batch.accumulation or 1
    return resolve_batch(batch, world).accumulation


def _typed(config: Mapping[str, Any]) -> Config:
    if not isinstance(config, Mapping):
        raise ConfigError(f'config: expected groups such as {{"zero": {{"stage": 3}}}}, got {spell(config)}.')
    for key, value in config.items():
        if key not in EXAMPLES:
            used = ", ".join(EXAMPLES)
            raise ConfigError(f"{key}: zerokit.initialize uses {used}; the rest belongs to your own loop.")
        named = isinstance(value, str) and key in registry.GROUPS
        if not named and not isinstance(value, Mapping):
            raise ConfigError(f"{key}: expected its options, such as {EXAMPLES[key]}, got {spell(value)}.")
    return typed(config)


def typed(config: Mapping[str, Any], others: Mapping[str, Any] | None = None) -> Config:
    """The configuration for a loop of one's own: only if asked are blocks compiled and gradients clipped. others: more
    sections."""
    values = DEFAULTS | dict(config) | dict(others or {})
    for group in registry.GROUPS:
        if isinstance(values.get(group), str):
            values[group] = {"name": values[group]}
    values["train"] = {"compile": False, "clip_norm": None} | dict(values.get("train", {}))
    cfg = Config.from_dict({key: dict(value) for key, value in values.items()})
    if cfg.zero.auto:
        raise ConfigError("zero.auto: only runs of zerokit's own loop choose for themselves; set zero.stage.")
    return cfg


def _join(cfg: Config) -> torch.device:
    if dist.is_initialized() or "WORLD_SIZE" not in os.environ:
        return device_of(cfg.launch)
    close_at_exit()
    return open_group(cfg.launch).device


@cache
def close_at_exit() -> None:
    """Close the process group when the script ends; not after an error, as closing waits for the other ranks."""
    failed: list[bool] = []
    show = sys.excepthook

    def note(*error: Any) -> None:
        failed.append(True)
        show(*error)

    sys.excepthook = note
    atexit.register(lambda: None if failed else close_group())
