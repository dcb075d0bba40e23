"""The first values of a model's weights: written into the flat shards one module at a time.

A model on the `meta` device is initialised module by module, by each module's own `reset_parameters`, under a random
generator seeded by the run's seed and the module's name: the values depend neither on the stage nor on the number of
ranks, and no rank ever holds more than its shards and the weights of one module. A model with real values keeps those
of rank 0.

[Note: stored weights] A model on `meta` may have `stored_weights`, a mapping of its parameters and buffers to functions
that read their values, most often from files mapped into memory: each rank reads its own part of them, and only what
is not there is initialised. It may also have `reset_module(name)`, which takes the place of every `reset_parameters`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from zerokit.comm import Communicator
from zerokit.zero.storage import Storage
from zerokit.zero.unit import Unit


def module_seed(seed: int, name: str) -> int:
    """A 63-bit seed for the module `name` of a run with `seed`."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Materializer:
    """Writes whole parameters into this rank's part of a storage."""

    def __init__(self, storage: Storage, master: object, comm: Communicator):
        self.storage, self.master, self.comm = storage, master, comm
        self._where: dict[nn.Parameter, tuple[Unit, int]] = {}
        self._stored: Mapping[Tensor, Callable[[], Tensor]] = {}
        for unit in storage.units:
            self._where.update({p: (unit, i) for i, p in enumerate(unit.parameters)})

    def write(self, parameter: nn.Parameter, value: Tensor) -> None:
        """Store the fp32 `value`, of the parameter's shape: compute weights, and what completes them."""
        unit, index = self._where[parameter]
        flat = value.detach().reshape(-1)
        part, weight = unit.weight.of(unit.layout, index)
        if len(part):
            wants, device = self.master.extra, weight.device
            scratch = None if wants is None else torch.empty(len(part), dtype=wants, device=device)
            self.master.store(weight, scratch, flat[part.start : part.stop].to(device, torch.float32))
        if unit.extra is None:
            return
        part, extra = unit.extra.of(unit.layout, index)
        if len(part):
            scratch = torch.empty(len(part), dtype=weight.dtype, device=weight.device)
            self.master.store(scratch, extra, flat[part.start : part.stop].to(weight.device, torch.float32))

    def run(self, model: nn.Module, seed: int | None, known: Collection[Tensor] = ()) -> None:
        """Give every parameter its first value and every buffer its storage, then make parameters views of the slots.
        A storage on the meta device has no values.

        seed: of modules on `meta`; None if they have their values on rank 0. known: parameters that are left without,
        and buffers that stay as they are.

        Raises:
            ValueError: a module on `meta` has parameters or buffers but no `reset_parameters`, or rank 0 has no values.
        """
        if seed is None and self.comm.rank == 0 and any(p.is_meta for p in model.parameters()):
            raise ValueError("Rank 0 was to have the model's values, but it is on the meta device there.")
        written: set[Tensor] = set(known)
        self._stored = model.__dict__.pop("stored_weights", {})  # once: what is changed later is not read again
        reset = getattr(model, "reset_module", None)
        for name, module in model.named_modules() if self.storage.device.type != "meta" else ():
            own = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
            if any(t.is_meta for t in own) and seed is not None:
                self._initialise(name, module, seed, written, reset)
            else:
                self._take(module, written)
        self._point(model)

    def _initialise(self, name: str, module: nn.Module, seed: int, written: set[Tensor],
                    reset: Callable[[str], None] | None) -> None:  # fmt: skip
        for parameter in self._read(module, written):
            written.add(parameter)
        placeholders = {key: p for key, p in module._parameters.items() if p is not None and p not in self._stored}
        buffers = {key: b for key, b in module._buffers.items() if b is not None and b.is_meta}
        if not placeholders and not buffers:
            return
        if reset is not None:
            reset = partial(reset, name)
        elif hasattr(module, "reset_parameters"):
            reset = module.reset_parameters
        else:
            raise ValueError(
                f"'{name or 'the model'}' ({type(module).__name__}) was built on the meta device and has no "
                "reset_parameters() to give its own parameters and buffers their values; add one, "
                "or build the model on a real device."
            )
        device = self.storage.device
        for key, p in placeholders.items():
            real = _unset(p.shape, torch.float32, device)
            module._parameters[key] = nn.Parameter(real, requires_grad=p.requires_grad)
        for key, buffer in buffers.items():
            module._buffers[key] = _unset(buffer.shape, buffer.dtype, device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device), torch.no_grad():
            torch.manual_seed(module_seed(seed, name))
            reset()
            for key, buffer in buffers.items():
                if buffer in self._stored:
                    module._buffers[key].copy_(self._stored[buffer]())
        self._check_set(name, module)
        for key, p in placeholders.items():
            value, module._parameters[key] = module._parameters[key], p
            if p not in written:
                written.add(p)
                self.write(p, value)

    def _read(self, module: nn.Module, written: Collection[Tensor]) -> Iterator[nn.Parameter]:
        """Write this rank's part of the module's stored weights; those that it has written."""
        for p in module._parameters.values():
            if p in self._stored and p not in written:
                self.write(p, self._stored[p]())
                yield p

    @staticmethod
    def _check_set(name: str, module: nn.Module) -> None:
        for key, value in (*module._parameters.items(), *module._buffers.items()):
            if value is not None and not value.is_meta and _has_unset(value):
                raise ValueError(
                    f"{type(module).__name__}.reset_parameters() left '{f'{name}.{key}'.lstrip('.')}' unset: it must "
                    "give every parameter and buffer of the module its values."
                )

    def _take(self, module: nn.Module, written: set[Tensor]) -> None:
        for p in module._parameters.values():
            if p is not None and p not in written:
                written.add(p)
                managed = p in self._where
                value = _real(p, self.storage.device, torch.float32 if managed else p.dtype)
                self.comm.broadcast(value)
                if not managed:
                    p.data = value
                    continue
                self.write(p, value)
                if not p.is_meta:
                    p.data = torch.empty(0, dtype=p.dtype, device=p.device)  # frees the whole weights one by one
        for key, buffer in module._buffers.items():
            if buffer is not None and buffer not in written:
                module._buffers[key] = _real(buffer, self.storage.device, buffer.dtype)
                if buffer.numel():
                    self.comm.broadcast(module._buffers[key])

    def _point(self, model: nn.Module) -> None:
        """Parameters become views of their units' slots, through aliases with version counters of their own."""
        replaced: dict[nn.Parameter, nn.Parameter] = {}
        for unit in self.storage.units:
            views = unit.views(unit.slot.buffer)
            for index, view in enumerate(views):
                p = unit.parameters[index]
                p.grad = None
                if p.is_meta:
                    replaced[p] = nn.Parameter(view.data, requires_grad=p.requires_grad)
                    unit.parameters[index] = replaced[p]
            unit.model_views.point(views)
        for module in model.modules():
            for key, p in module._parameters.items():
                if p in replaced:
                    module._parameters[key] = replaced[p]


def _real(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy on the device; without values if the tensor has none."""
    if tensor.is_meta:
        return torch.empty(tensor.shape, dtype=dtype, device=device)
    return tensor.detach().to(device, dtype, copy=True)


def _unset(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory whose untouched elements `_has_unset` recognises (not those of bool)."""
    if dtype is torch.bool:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.full(
        shape, torch.nan if dtype.is_floating_point else torch.iinfo(dtype).min, dtype=dtype, device=device
    )


def _has_unset(tensor: Tensor) -> bool:
    if tensor.dtype is torch.bool:
        return False
    unset = tensor.isnan() if tensor.is_floating_point() else tensor == torch.iinfo(tensor.dtype).min
    return bool(unset.any())


def build_on_meta(build: Callable[[], nn.Module]) -> nn.Module | None:
    """The model that `build` makes, on the meta device, if its class says `shardwise_init = True`: every module with
    parameters or buffers of its own gives them all their values in `reset_parameters()`, and nothing else does. Any
    other model may set values while it is built, which the meta device would lose: None.
    """
    try:
        with torch.device("meta"):
            model = build()
    except (NotImplementedError, RuntimeError):
        return None
    return model if getattr(model, "shardwise_init", False) else None
