"""What an engine puts on a model, and takes off again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from zerokit.comm import Communicator
from zerokit.zero.gather import Gatherer
from zerokit.zero.model.clipping import mark, unmark
from zerokit.zero.model.hooks import GONE, Hooks
from zerokit.zero.model.views import Parameters, Views, weakly
from zerokit.zero.rows.lookup import Lookup
from zerokit.zero.storage import Storage
from zerokit.zero.unit import Unit

OWNER = "_zerokit_attachment"


class Attachment:
    """Hooks, parameters that are views, and forwards of an engine on its model.

    has_gradients: whether the step under way has had backward passes. load: takes whole weights by name. give_back:
    detaches the engine. All are bound methods, which are not kept alive.
    """

    def __init__(self, model: nn.Module, units: list[Unit], storage: Storage, comm: Communicator, gatherer: Gatherer,
                 hooks: Hooks, has_gradients: Callable[[], bool], load: Callable[[dict], None],
                 give_back: Callable[[], Any]):  # fmt: skip
        self._model, self._units, self._hooks = model, units, hooks
        self._load, self._give_back = weakly(load, GONE), weakly(give_back, GONE)
        self._handles: list[Any] = []
        self._forwards: dict[nn.Module, Any] = {}
        by_module: dict[nn.Module, list[Unit]] = {model: []}
        for unit in units:
            by_module.setdefault(unit.module, []).append(unit)
            gatherer.let_read(unit)
            mark(unit.parameters, weakly(has_gradients, default=False))
        views = {p: unit.model_views for unit in units for p in unit.parameters}
        self._keepers: list[nn.Module] = []
        for module in model.modules():
            of = {name: views[p] for name, p in module._parameters.items() if p in views}
            if of:
                module.__dict__["_parameters"] = Parameters(module._parameters, of)
                self._keepers.append(module)
            if of and _keeps_parameters_elsewhere(module):
                hooks.read_before(module, list(dict.fromkeys(of.values())))
        self._guard_state_dicts(model, views)
        for unit in units:
            if unit.in_place or unit.rows is not None:
                self._replace_forward(unit.module, Lookup(unit, storage.peers, comm))
        if hooks.compute != torch.float32:
            shorten_iterations(model, hooks.compute)
        for module in statistics_in_fp32(model, hooks.compute):
            self._replace_forward(module, _InFp32(module))
        for module in leaves_beside_other_formats(model, set(by_module), hooks.compute):
            hooks.cast_inputs(module)
        for module, of_module in by_module.items():
            inside = set(module.modules()) if module is not model else set()
            hooks.attach(module, of_module, module is model, [keeper for keeper in self._keepers if keeper in inside])
        model.__dict__[OWNER] = weakref.ref(self)

    def _guard_state_dicts(self, model: nn.Module, views: dict[nn.Parameter, Views]) -> None:
        """state_dict() of hidden weights is refused; load_state_dict() reaches the master weights."""
        loading = _Loading(
            self._load, {id(p): name for unit in self._units for name, p in unit.named_parameters()}, views
        )
        for module in model.modules():
            self._handles += [
                module.register_state_dict_pre_hook(_refuse_hidden),
                module.register_load_state_dict_pre_hook(loading.begin),
                module.register_load_state_dict_post_hook(loading.end),
            ]

    def _replace_forward(self, module: nn.Module, forward: Any) -> None:
        self._forwards[module] = module.__dict__.get("forward")
        module.forward = forward

    def leave(self) -> None:
        """Let the engine give its model back, for another one. A collective."""
        self._give_back()

    def detach(self, values: Callable[[Unit], list[Tensor]]) -> None:
        """Take all of it off. values: whole parameters of a unit, which they are from here on."""
        self._hooks.detach()
        for handle in self._handles:
            handle.remove()
        for unit in self._units:
            unmark(unit.parameters)
            for parameter, value in zip(unit.parameters, values(unit), strict=True):
                parameter.data = value
                parameter.grad = None
        for module in self._keepers:
            module.__dict__["_parameters"] = dict(dict.items(module._parameters))
        for module, before in self._forwards.items():
            if before is None:
                del module.__dict__["forward"]
            else:
                module.forward = before
        self._model.__dict__.pop(OWNER, None)


def _refuse_hidden(module: nn.Module, prefix: str, _keep_vars: bool) -> None:
    parameters = module._parameters
    for views in parameters.hidden() if isinstance(parameters, Parameters) else ():
        if not views.lasting:
            raise RuntimeError(
                f"state_dict() of '{views.name}', which is divided among the ranks, would read memory that other "
                "parameters use. Use engine.full_state_dict(), or call it inside `with engine.gathered():`."
            )
        views.read()


class _Loading:
    """A call of load_state_dict on a model or a part of it: what it writes goes to memory of its own for a while, what
    it reads to the engine."""

    def __init__(self, load: Callable[[dict], None], names: dict[int, str], views: dict[nn.Parameter, Views]):
        self._load, self._names, self._views = load, names, views
        self._open: list[ExitStack] = []
        self._found: dict[str, Tensor] = {}

    def begin(self, module: nn.Module, state_dict: dict, prefix: str, *_: Any) -> None:
        """A module is about to load."""
        lent = ExitStack()
        self._open.append(lent)
        for name, parameter in dict.items(module._parameters):
            views, value = self._views.get(parameter), state_dict.get(prefix + name)
            if views is None or value is None:
                continue
            if value.shape == parameter.shape:
                self._found[self._names[id(parameter)]] = value
            place = next(i for i, own in enumerate(views.parameters) if own is parameter)
            lent.enter_context(
                views.lend([place], [torch.empty_like(parameter, memory_format=torch.contiguous_format)])
            )

    def end(self, _module: nn.Module, _incompatible: Any) -> None:
        """It has, and all modules in it."""
        self._open.pop().close()
        if not self._open:
            found, self._found = self._found, {}
            self._load(found)


def attached_to(model: nn.Module) -> Attachment | None:
    """What an engine that is there has put on a model, or on a part of it."""
    for module in model.modules():
        reference = module.__dict__.get(OWNER)
        if reference is not None and reference() is not None:
            return reference()
    return None


def _keeps_parameters_elsewhere(module: nn.Module) -> bool:
    """Whether a module has lists of its parameters beside `_parameters`, as recurrent ones do."""
    own = {id(p) for p in dict.values(module._parameters) if p is not None}
    lists = (value for value in module.__dict__.values() if isinstance(value, list | tuple))
    return any(id(item) in own for value in lists for item in value)


def statistics_in_fp32(model: nn.Module, compute: torch.dtype) -> Iterator[nn.Module]:
    """Normalisations whose running statistics stay fp32 while weights and activations are shorter."""
    for module in model.modules():
        if isinstance(module, _NormBase) and module.running_mean is not None and compute != torch.float32:
            yield module


def shorten_iterations(model: nn.Module, compute: torch.dtype) -> None:
    """Bring the vectors from which a spectral norm goes on to the format of the weights that they meet."""
    for module in model.modules():
        names = ["_u", "_v"] if isinstance(module, _SpectralNorm) else []
        old = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm)]
        for name in [*names, *(f"{hook.name}_{letter}" for hook in old for letter in "uv")]:
            module._buffers[name] = module._buffers[name].to(compute)


class _InFp32:
    """The forward of a normalisation with running statistics: computes in fp32, returns the format of its input."""

    def __init__(self, module: nn.Module):
        self._module = weakref.ref(module)
        self._forward = type(module).forward

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, …) → the same shape and format."""
        module = self._module()
        names = [name for name, p in dict.items(module._parameters) if p is not None]
        weights = {name: module._parameters[name] for name in names}
        kept = module.__dict__["_parameters"]
        module.__dict__["_parameters"] = {name: None for name in kept} | {n: w.float() for n, w in weights.items()}
        try:
            return self._forward(module, x.float()).to(x.dtype)
        finally:
            module.__dict__["_parameters"] = kept


def leaves_beside_other_formats(model: nn.Module, units: set[nn.Module], compute: torch.dtype) -> Iterator[nn.Module]:
    """Modules with parameters of their own in units that have buffers of another floating format, which may lengthen
    the activations that meet them."""
    if compute == torch.float32:
        return
    for root in units:
        own = list(_own_modules(root, units))
        buffers = (b for m in own for b in m._buffers.values() if b is not None and not isinstance(m, _NormBase))
        if any(b.is_floating_point() and b.dtype != compute for b in buffers):
            for module in own:
                if module is not root and module._parameters and not isinstance(module, _NormBase):
                    yield module


def _own_modules(root: nn.Module, units: set[nn.Module]) -> Iterator[nn.Module]:
    yield root
    for child in root.children():
        if child not in units:
            yield from _own_modules(child, units)
