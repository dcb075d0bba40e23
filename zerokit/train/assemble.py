"""The one place that knows every component: a typed config becomes a trainer."""

from __future__ import annotations

import logging
import os
import random
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn

from zerokit.comm import Communicator
from zerokit.config import registry
from zerokit.config import schedule as schedules
from zerokit.config.batch import resolve_batch
from zerokit.config.checks import is_replayable
from zerokit.config.errors import ConfigError, suggestion
from zerokit.config.schema import Config
from zerokit.train.caches import keep_no_caches
from zerokit.train.forward import loss_function, prediction
from zerokit.train.groups import parameter_groups
from zerokit.train.loader import Loader
from zerokit.train.objective import Objective
from zerokit.train.trainer import Trainer
from zerokit.train.wrapping import replace_forward, unwrap
from zerokit.zero.engine import Engine
from zerokit.zero.materialize import build_on_meta
from zerokit.zero.model.partition import find_blocks, unit_modules
from zerokit.zero.numerics import Numerics, ParameterGroups

log = logging.getLogger(__name__)


def build_model(cfg: Config, info: Any) -> nn.Module:
    """The model, on the meta device if its modules can initialise themselves later, else with real values."""

    model = build_on_meta(partial(make_model, cfg, info))
    if model is None:
        torch.manual_seed(cfg.train.seed)
        model = make_model(cfg, info)
    return model


def make_model(cfg: Config, info: Any) -> nn.Module:
    """The model on torch's default device, with its adapter and with what `train.freeze` names frozen.

    Raises:
        ConfigError: it cannot be built for these data, or nothing of it is trained.
    """
    try:
        model = registry.build("model", cfg.model, data=info)
    except Exception as error:
        error.add_note(f"model={cfg.model.name} was built for data={cfg.data.name}: {info}")
        raise
    model = registry.build("adapter", cfg.adapter, model=model)
    freeze(model, cfg.train.freeze)
    return model


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters whose names match one of `patterns`.

    Raises:
        ConfigError: a pattern matches none, or nothing is left to train.
    """
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    for pattern in patterns:
        found = [p for p, aliases in names.items() if any(fnmatchcase(name, pattern) for name in aliases)]
        if not found:
            every = [name for aliases in names.values() for name in aliases]
            raise ConfigError(
                f"train.freeze: '{pattern}' matches no parameter of the model.{suggestion(pattern, every)} Names are "
                f"such as {', '.join(every[:3])}."
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in names):
        raise ConfigError(f"train.freeze={list(patterns)} freezes every parameter: nothing is left to train.")


def wrap_blocks(model: nn.Module, cfg: Config, device: torch.device, backend: Any = None) -> None:
    """Give every block's forward its activation checkpointing; compile it, and other units. What an engine of before
    has put on the model is taken off first.

    backend: of torch.compile, in place of that of the config.
    """
    checkpointing = registry.build("checkpointing", cfg.checkpointing)
    unwrap(model)
    for index, block in enumerate(find_blocks(model)):
        replace_forward(block, checkpointing.wrap(block.forward, index))
    if cfg.checkpointing.name != "none":
        keep_no_caches(model)
    if is_compiled(cfg, device.type):
        compile_blocks(model, cfg.zero.units, backend or cfg.train.compile_backend)


def is_compiled(cfg: Config, device: str) -> bool:
    """Whether the blocks are compiled on a device of this type."""
    return device == "cuda" if cfg.train.compile is None else cfg.train.compile


def can_record(cfg: Config, engine: Engine) -> bool:
    """Whether `train.cuda_graph=true` is allowed with these steps on a GPU."""
    return is_replayable(cfg) and not engine.changes


def compile_blocks(model: nn.Module, patterns: Sequence[str] = (), backend: Any = "inductor", **options: Any) -> None:
    """Compile every block and other unit but those whose class says `compiles = False`; their hooks stay outside."""
    units = set(unit_modules(model, patterns))
    for module in dict.fromkeys([*find_blocks(model), *unit_modules(model)]):
        holds_units = any(inner in units for inner in module.modules() if inner is not module)
        gains = getattr(module, "compiles", not isinstance(module, nn.Embedding))
        if gains and not holds_units:
            replace_forward(module, torch.compile(module.forward, backend=backend, **options))


def numerics(cfg: Config, device: torch.device) -> Numerics:
    """The engine's formats for the configured precision."""
    precision = registry.build("precision", cfg.precision)
    scaler = None if precision.scaler is None else precision.scaler(device)
    formats = (getattr(torch, name) for name in (precision.accumulate, precision.reduce))
    return Numerics(getattr(torch, precision.compute), precision.master, *formats, scaler)


def build_objective(engine: Engine, source: Any, cfg: Config) -> Objective:
    """The loss of the model or the data, and its mean over a step, as `train.loss_mean` says.

    Raises:
        ConfigError: the data have no tokens to take the mean over.
    """
    shifts = getattr(engine.module, "shifts_labels", False)
    loss, predict = loss_function(engine, source), prediction(engine, source)
    return Objective(loss, source.info, cfg.train.loss_mean, shifts, predict)


def communicator(cfg: Config, device: torch.device) -> Communicator:
    """The ranks, as the mesh that `zero.shard_size` makes of them. A collective.

    Raises:
        ConfigError: they cannot be divided so.
    """
    asked = cfg.zero.shard_size
    size = None if asked == "all" else _ranks_of_a_host(cfg, device) if asked == "host" else asked
    try:
        return Communicator(device, cfg.launch.timeout_s, size)
    except ValueError as error:
        raise ConfigError(f"zero.shard_size={asked}: {error}") from error


def _ranks_of_a_host(cfg: Config, device: torch.device) -> int:
    everybody = Communicator(device, cfg.launch.timeout_s)
    counts = everybody.gather_row([float(os.environ.get("LOCAL_WORLD_SIZE", everybody.world))])
    if len({count for (count,) in counts}) > 1:
        raise ConfigError("zero.shard_size=host: the hosts have different numbers of processes; give a number.")
    return int(counts[0][0])


def build_engine(model: nn.Module, cfg: Config, comm: Communicator, accumulation: int,
                 kind: Callable[..., Engine] = Engine, groups: ParameterGroups | None = None,
                 **own: Any) -> Engine:  # fmt: skip
    """The engine for a model, as the config's groups `zero`, `precision`, `optimizer` and `train` say; `groups`, whose
    first has a rule, take the place of what `optimizer` says, and keywords of `own` that of others."""
    optimizer = registry.build("optimizer", cfg.optimizer) if groups is None else groups.groups[0].rule
    keywords = dict(
        stage=cfg.zero.stage,
        comm=comm,
        numerics=numerics(cfg, comm.device),
        groups=groups or partial(parameter_groups, cfg.optimizer, optimizer),
        accumulation=accumulation,
        clip_norm=cfg.train.clip_norm,
        units=cfg.zero.units,
        min_unit=cfg.zero.min_unit,
        prefetch=cfg.zero.prefetch,
        peers=cfg.zero.transport != "collective",
        states=cfg.zero.states,
        offload=cfg.zero.offload,
        offload_keep_gib=cfg.zero.offload_keep_gib,
        guard=True if cfg.zero.guard == "always" else None,
        skip_unused=cfg.train.unused_parameters == "skip",
        seed=cfg.train.seed,
        max_skips=cfg.train.max_skips,
        save_frozen=cfg.adapter.name == "none",
    )
    engine = kind(model, optimizer, **{**keywords, **own})
    if cfg.zero.transport == "peer" and comm.shared_bytes == 0:
        log.warning("zero.transport=peer needs several GPUs of one host at stage 1 or above; using collectives.")
    return engine


def build_schedule(cfg: Config, optimizer: Any) -> Callable[[int], Any]:
    """Rates of every step.

    Raises:
        ConfigError: it sets a momentum, which the optimizer does not have.
    """
    schedule = schedules.build_schedule(cfg, optimizer.lr)
    if schedule(0).momentum is not None and optimizer.momentum is None:
        raise ConfigError(
            f"scheduler={cfg.scheduler.name} sets a momentum, and optimizer={cfg.optimizer.name} has none: choose "
            "another optimizer, or cycle_momentum=false."
        )
    return schedule


def assemble(cfg: Config, comm: Communicator) -> Trainer:
    """Everything a run needs, on this rank.

    Raises:
        ConfigError: the parts do not fit together.
    """
    batch = resolve_batch(cfg.batch, comm.world)
    if cfg.train.deterministic != torch.are_deterministic_algorithms_enabled():  # the call alone imports the compiler
        torch.use_deterministic_algorithms(cfg.train.deterministic)
    source = registry.build("data", cfg.data, seed=cfg.train.seed)
    model = build_model(cfg, source.info)
    wrap_blocks(model, cfg, comm.device)
    engine = build_engine(model, cfg, comm, batch.accumulation)
    schedule = build_schedule(cfg, engine.optimizer)
    _seed(cfg.train.seed * 1_000_003 + comm.rank)  # dropout differs between ranks
    loader = Loader(source, batch.micro, comm.rank, comm.world, comm.device)
    return Trainer(engine, schedule, loader, build_objective(engine, source, cfg), batch, cfg.train)


def _seed(seed: int) -> None:
    """Seed the global generators, which the model, the data and code of the user draw from."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")  # which torch imports where it is installed
    if numpy is not None:
        numpy.random.seed(seed % (1 << 32))
