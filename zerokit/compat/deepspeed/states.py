"""Checkpoints of the compatible engine: zerokit's states under DeepSpeed's names, `latest` beside them."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from zerokit.compat.deepspeed.log import tell, warn
from zerokit.compat.deepspeed.parts import EngineParts
from zerokit.state.disk import Disk, remove_tree
from zerokit.state.piece import NAMES
from zerokit.state.rankfile import header, view_bytes
from zerokit.state.read import StateReader, verify

LATEST = "latest"


@dataclass(frozen=True)
class Parts:
    """What of a state is loaded. strict: every weight must be there, and no other."""

    strict: bool = True
    optimizer: bool = True
    scheduler: bool = True
    counters: bool = True


def folder_of(argument: str, value: str | Path) -> Path:
    """A folder that a script names.

    Raises:
        ValueError: it names none; the present folder is ".".
    """
    if not str(value):
        raise ValueError(f"{argument}: expected a folder, got an empty text; write '.' for the present one.")
    return Path(value)


def save(engine: EngineParts, folder: Path, tag: str, client_state: Mapping[str, Any], latest: bool) -> None:
    """Save the training as `folder/tag`, in the place of one of that name. A collective."""
    inner = engine.engine
    if inner.micro_batches:
        warn(f"{tag} is saved within a step: the gradients of {inner.micro_batches} micro-batches are not in it.")
    user = {
        "counters": {key: getattr(engine, key) for key in ("global_steps", "global_samples", "micro_steps")},
        "optimizer": pack(
            "the optimizer's groups", {} if engine.optimizer is None else engine.optimizer.hyperparameters()
        ),
        "lr_scheduler": _pack_scheduler(engine.lr_scheduler),
        "client_state": pack("client_state", dict(client_state)),
        "aliases": _aliases(engine.module),
    }
    target, first, exchange = folder / tag, inner.comm.rank == 0, inner.state.exchange
    if first:
        folder.mkdir(parents=True, exist_ok=True)
    exchange.gather(None)
    draft = target if not target.exists() else target.with_name(f"{tag}.new")
    if first and draft.exists() and draft != target:
        remove_tree(Disk(), draft)
    exchange.gather(None)
    inner.state.save(draft, user=user, within_step=True)
    if first:
        _publish(draft, target, latest)
    exchange.gather(None)


def _publish(draft: Path, target: Path, latest: bool) -> None:
    """Put a state that is durable in its place, and name it."""
    if draft != target:
        old = target.with_name(f"{target.name}.old")
        os.replace(target, old)
        os.replace(draft, target)
        remove_tree(Disk(), old)
    if latest:
        written = target.with_name(f"{LATEST}.new")
        written.write_text(target.name)
        os.replace(written, target.with_name(LATEST))


def _pack_scheduler(scheduler: Any) -> str | None:
    return None if scheduler is None else pack("the scheduler's state", scheduler.state_dict())


def pack(what: str, values: Mapping[str, Any]) -> str:
    """Values as text for a manifest.

    Raises:
        ValueError: something in them is code or an object: a state holds data only, so that loading it is safe.
    """
    buffer = io.BytesIO()
    try:
        torch.save(dict(values), buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except (UnpicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{what} must hold numbers, texts, lists, dicts and tensors only; of {list(values)} something is another "
            f"object ({str(error).splitlines()[0]})."
        ) from error
    return base64.b64encode(buffer.getvalue()).decode()


def unpack(text: str) -> dict[str, Any]:
    """The values that `pack` took."""
    return torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True, map_location="cpu")


def find(folder: Path, tag: str | None) -> Path | None:
    """The state `tag`, or that named by `latest`; None, with a warning, where there is no `latest`."""
    if tag is None:
        if not (folder / LATEST).is_file():
            warn(f"There is no {folder / LATEST}: nothing is loaded. Give a tag to load a state by its name.")
            return None
        tag = (folder / LATEST).read_text().strip()
    return folder / tag


def load(engine: EngineParts, folder: Path, tag: str | None, parts: Parts) -> tuple[str | None, Any]:
    """Take a state; its path and client state. A collective."""
    path = find(folder, tag)
    if path is None:
        return None, None
    inner = engine.engine
    manifest = inner.state.load(path, weights_only=not parts.optimizer, optional=() if parts.strict else ("weight/",))
    user = manifest.user or {}
    if parts.optimizer and engine.optimizer is not None and user.get("optimizer"):
        engine.optimizer.load_state_dict(unpack(user["optimizer"]))
    if parts.scheduler and engine.lr_scheduler is not None and user.get("lr_scheduler"):
        engine.lr_scheduler.load_state_dict(unpack(user["lr_scheduler"]))
    if parts.counters:
        inner.zero_grad()
        for key, value in user.get("counters", {}).items():
            setattr(engine, key, value)
        engine.micro_steps = engine.global_steps * engine.gradient_accumulation_steps()
    tell(f"loaded {path}")
    return str(path), unpack(user["client_state"]) if user.get("client_state") else {}


# -- whole models ----------------------------------------------------------------------------------------------------


def whole_model(engine: EngineParts, exclude_frozen: bool = False, everywhere: bool = False) -> dict[str, Tensor]:
    """Whole compute weights and buffers by name on the CPU, of rank 0 alone unless `everywhere`. A collective."""
    inner, module = engine.engine, engine.module
    keep = everywhere or inner.comm.rank == 0
    trained = {name for unit in inner.units if unit.trainable for name in unit.names}
    found = {}
    for name, value in inner.values.compute_weights():
        if keep and (name in trained or not exclude_frozen):
            found[name] = value.cpu()
    if not keep:
        return {}
    found |= {alias: found[name] for alias, name in _aliases(module).items() if name in found}
    for path, part in module.named_modules():
        for key, buffer in part._buffers.items():
            if buffer is not None and key not in part._non_persistent_buffers_set:
                found[f"{path}.{key}".lstrip(".")] = buffer.detach().to("cpu", copy=True)
    return found


def _aliases(module: torch.nn.Module) -> dict[str, str]:
    """Further names of tied parameters, each with the one under which a state has its values."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    every = module.named_parameters(remove_duplicate=False)
    return {alias: names[parameter] for alias, parameter in every if alias != names[parameter]}


def save_model(engine: EngineParts, path: Path, exclude_frozen: bool) -> None:
    """Write the whole model as one file, in the form that its name says. A collective."""
    weights = whole_model(engine, exclude_frozen)
    if engine.engine.comm.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.new")
        if path.suffix == ".safetensors":
            _write_safetensors(weights, draft)
        else:
            torch.save(weights, draft)
        os.replace(draft, path)
    engine.engine.state.exchange.gather(None)


def _write_safetensors(weights: Mapping[str, Tensor], path: Path) -> None:
    entries = [(name, NAMES[value.dtype], tuple(value.shape), value.nbytes) for name, value in weights.items()]
    with open(path, "wb") as file:
        file.write(header(entries, {"format": "pt"}))
        for value in weights.values():
            value = value.contiguous()
            file.write(view_bytes(value))


def fp32_weights(folder: str | Path, tag: str | None = None) -> dict[str, Tensor]:
    """The whole fp32 weights of a checkpoint by every name of theirs, on the CPU; no process group is needed.

    Raises:
        FileNotFoundError: there is no such checkpoint. DamagedState: a byte of it has changed.
    """
    path = find(folder_of("checkpoint_dir", folder), tag)
    if path is None or not path.is_dir():
        raise FileNotFoundError(f"There is no checkpoint '{tag or LATEST}' in {folder}.")
    manifest = verify(path)
    with StateReader(path, manifest) as reader:
        names = [name for name in manifest.tensors if name.startswith("weight/")]
        found = {name.removeprefix("weight/"): reader.tensor(name).float() for name in names}
    return found | {alias: found[name] for alias, name in manifest.user.get("aliases", {}).items()}
