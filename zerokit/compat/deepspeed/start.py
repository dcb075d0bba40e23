"""`deepspeed.initialize`: a model, an optimizer and a DeepSpeed configuration become an engine."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from zerokit.comm import Communicator
from zerokit.comm.process import device_of
from zerokit.compat.deepspeed import comm, membership
from zerokit.compat.deepspeed.engine import DeepSpeedEngine, Setup
from zerokit.compat.deepspeed.errors import MisuseError
from zerokit.compat.deepspeed.log import logger, tell, warn
from zerokit.compat.deepspeed.lr_schedules import from_json
from zerokit.compat.deepspeed.optimizer import DeepSpeedOptimizer, plain_group
from zerokit.compat.deepspeed.source import load
from zerokit.compat.deepspeed.translation import Facts, Translation, translate
from zerokit.compat.deepspeed.zero import describe
from zerokit.config.batch import Batch, resolve_batch
from zerokit.config.errors import ConfigError
from zerokit.config.registry import Choice
from zerokit.config.schema import Config
from zerokit.train.assemble import build_engine, communicator, numerics, wrap_blocks
from zerokit.train.first_values import first_values
from zerokit.train.initialize import typed
from zerokit.train.takeover import Division, changed, choices, divide, make_choice
from zerokit.zero.engine import Engine
from zerokit.zero.numerics import Numerics

DeepSpeedConfigError = ConfigError
FORMATS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
DTYPES = {name: dtype for dtype, name in FORMATS.items()}
BATCH_KEYS = {
    "batch.global": "train_batch_size",
    "batch.micro": "train_micro_batch_size_per_gpu",
    "batch.accumulation": "gradient_accumulation_steps",
}
Optimizer = torch.optim.Optimizer


def initialize(args: Any = None, model: nn.Module | None = None, optimizer: Optimizer | Callable | None = None,
               model_parameters: Iterable | None = None, training_data: Any = None, lr_scheduler: Any = None,
               distributed_port: int | None = None, mpu: Any = None, dist_init_required: bool | None = None,
               collate_fn: Callable | None = None, config: Any = None, mesh_param: Any = None,
               config_params: Any = None) -> tuple[DeepSpeedEngine, Any, Any, Any]:  # fmt: skip
    """Return (engine, optimizer, training_dataloader, lr_scheduler), None where there is none.

    model: not moved or wrapped; rank 0's values count. optimizer: of torch.optim or `ops`, or a callable that makes one
    from the parameters; it takes the place of the JSON's. model_parameters: parameters or groups for the JSON's
    optimizer, all by default. lr_scheduler: an object, or a callable that makes one for the optimizer.
    config: a dict, a path or base64; also as `args.deepspeed_config` or `config_params`.

    Raises:
        ConfigError: what cannot be done as it is written, naming the key and the alternative.
    """
    if model is None:
        raise MisuseError("initialize(model=...) is missing.")
    if mpu is not None or mesh_param is not None:
        raise ConfigError("mpu and mesh_param: there is data parallelism only. Leave them out.")
    comm.init_distributed(dist_init_required=dist_init_required)
    source = _source(args, config, config_params)
    parameters = None if model_parameters is None else list(model_parameters)
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        optimizer = optimizer(list(model.parameters()) if parameters is None else parameters)
    translation = translate(source, _facts(model, optimizer))
    _tell(translation, optimizer)
    cfg = _config(translation)
    setup = Setup(source, cfg, _batch(cfg, comm.get_world_size()), translation.script, collate_fn)
    engine = _make(model, setup, translation, optimizer, parameters)
    if engine.optimizer is not None:
        engine.lr_scheduler = _scheduler(lr_scheduler, engine.optimizer, source.get("scheduler"), translation)
    if training_data is not None:
        engine.training_dataloader = engine.deepspeed_io(training_data)
    return engine, engine.optimizer, engine.training_dataloader, engine.lr_scheduler


def _source(args: Any, config: Any, config_params: Any) -> dict[str, Any]:
    given = {
        "config": config,
        "config_params": config_params,
        "args.deepspeed_config": getattr(args, "deepspeed_config", None),
    }
    given = {key: value for key, value in given.items() if value is not None}
    if not given:
        raise ConfigError("initialize(config=...) is missing: a dict, a path or base64.")
    first, *others = given
    for other in others:
        if given[other] != given[first]:
            warn(f"{other} is not used, as {first} is given too.")
    return load(given[first])


def _facts(model: nn.Module, optimizer: Optimizer | None) -> Facts:
    formats = {parameter.dtype for parameter in model.parameters()}
    dtype = FORMATS.get(formats.pop(), "fp32") if len(formats) == 1 else "fp32"
    return Facts(dtype, None if optimizer is None else plain_group(optimizer.param_groups[0]), acts=True)


def _tell(translation: Translation, optimizer: Optimizer | None) -> None:
    """One line for every key that has no effect."""
    for note in translation.notes:
        if not note.became and note.key not in translation.script:
            tell(f"{note.key}: no effect here; {note.text}.")
    if optimizer is not None and "optimizer" in translation.settings:
        tell(f"optimizer: the script's {type(optimizer).__name__} takes the place of the JSON's.")


def _config(translation: Translation) -> Config:
    values = translation.nested()
    del values["scheduler"]  # `_scheduler` makes it
    extra = {key: values.pop(key) for key in ("tracker", "run") if key in values}
    values["train"] = {key: value for key, value in values["train"].items() if key != "log_every"}
    cfg = typed(values, extra)
    if translation.script["dump_state"]:
        for key, value in cfg.to_dict().items():
            tell(f"{key}: {value}")
    return cfg


def _batch(cfg: Config, world: int) -> Batch:
    try:
        return resolve_batch(cfg.batch, world)
    except ConfigError as error:
        text = str(error)
        for own, theirs in BATCH_KEYS.items():
            text = text.replace(own, theirs)
        raise ConfigError(text) from None


# -- engine ----------------------------------------------------------------------------------------------------------


def _make(model: nn.Module, setup: Setup, translation: Translation, optimizer: Optimizer | None,
          parameters: list | None) -> DeepSpeedEngine:  # fmt: skip
    groups = _groups(model, setup.typed, translation, optimizer, parameters)
    division = _without_optimizer(model) if groups is None else divide(model, [(g["params"], c) for g, c in groups])
    if division.left:
        warn(division.told())
    names = {parameter: name for name, parameter in model.named_parameters()}
    inner = _inner(model, setup, division)
    engine = DeepSpeedEngine(model, inner, setup)
    if groups is not None:
        now = dict(model.named_parameters())  # those that were built on the meta device have been replaced
        made = [{**group, "params": [now[names[p]] for p in group["params"]]} for group, _ in groups]
        for group, own in zip(optimizer.param_groups if optimizer is not None else (), made, strict=False):
            group["params"] = own["params"]
        engine.optimizer = DeepSpeedOptimizer(engine, made, division, optimizer)
    membership.add(inner)
    describe(inner)
    return engine


def _groups(model: nn.Module, cfg: Config, translation: Translation, optimizer: Optimizer | None,
            parameters: list | None) -> list[tuple[dict[str, Any], Choice]] | None:  # fmt: skip
    """Parameter groups as scripts see them, each with its choice; None without an optimizer."""
    if optimizer is not None:
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        untested = cfg.zero.stage == 0 or translation.script["zero_allow_untested_optimizer"]
        return list(zip(optimizer.param_groups, choices(optimizer, untested), strict=True))
    if "optimizer" not in translation.settings:
        return None
    members = [p for p in model.parameters() if p.requires_grad] if parameters is None else parameters
    named = members and isinstance(members[0], Mapping)
    found = []
    for group in members if named else [{"params": members}]:
        own = {**group, "params": [p for p in _listed(group["params"]) if p.requires_grad]}
        choice = changed(cfg.optimizer, {key: value for key, value in own.items() if key != "params"})
        found.append(({**_shown(choice.options), **own}, choice))
    return [(group, choice) for group, choice in found if group["params"]]


def _listed(parameters: Any) -> Sequence[nn.Parameter]:
    return [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)


def _shown(options: Any) -> dict[str, Any]:
    """An optimizer's options by the names that scripts and schedulers look for."""
    group = {key: getattr(options, key) for key in ("lr", "weight_decay", "eps", "momentum") if hasattr(options, key)}
    if hasattr(options, "beta1") and hasattr(options, "beta2"):
        group["betas"] = (options.beta1, options.beta2)
    return group


def _without_optimizer(model: nn.Module) -> Division:
    """Gradient descent that is never asked for: an engine that only evaluates keeps no states."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return divide(model, [(trained, make_choice("sgd", {"lr": 0.0, "momentum": 0.0}))])


def _inner(model: nn.Module, setup: Setup, division: Division) -> Engine:
    cfg, device = setup.typed, device_of(setup.typed.launch)
    ranks = communicator(cfg, device)
    wrap_blocks(model, cfg, device)
    formats = _numerics(setup, ranks)
    # A script may use more micro-batches than it says (no_sync): their sums need the format of sums.
    accumulation = max(setup.batch.accumulation, 2 if formats.reduce != formats.accumulate else 1)
    own = {"numerics": formats, **first_values(model, ranks)}
    return build_engine(model, cfg, ranks, accumulation, groups=division.groups, **own)


def _numerics(setup: Setup, ranks: Communicator) -> Numerics:
    """The formats of the JSON, of any combination, and what its gradients are."""
    script = setup.script
    asked = {"accumulate": "data_types.grad_accum_dtype", "reduce": "communication_data_type"}
    formats = {ours: DTYPES[script[key]] for ours, key in asked.items() if script[key] is not None}
    total = script["gradient_allreduce_op"] == "sum"
    checks = setup.typed.precision.name != "bf16" or script["bf16.check_grad_overflow"]
    own = {"weight": float(ranks.world) if total else 1.0, "skips": checks}
    return replace(numerics(setup.typed, ranks.device), **formats, **own)


# -- schedulers ------------------------------------------------------------------------------------------------------


def _scheduler(given: Any, optimizer: DeepSpeedOptimizer, section: Any, translation: Translation) -> Any:
    """The script's scheduler, or the JSON's."""
    if given is None:
        return None if section is None else from_json(optimizer, section, translation.scheduler)
    if section is not None:
        tell(f"scheduler: the script's {type(given).__name__} takes the place of the JSON's.")
    if callable(given) and not hasattr(given, "step"):
        return given(optimizer.optimizer)
    return given


# -- command line ----------------------------------------------------------------------------------------------------


def add_config_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add `--deepspeed` and `--deepspeed_config FILE`, which `initialize(args=...)` reads."""
    group = parser.add_argument_group("DeepSpeed", "DeepSpeed's configuration")
    group.add_argument("--deepspeed", action="store_true", help="for the script's own use")
    group.add_argument("--deepspeed_config", type=str, default=None, help="JSON file with the configuration")
    return parser


__all__ = ["DeepSpeedConfigError", "add_config_arguments", "initialize", "logger"]
