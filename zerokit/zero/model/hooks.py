"""Where a model's forward and backward passes meet the gathers and reductions. The only file that knows autograd.

[Note: hooks] Forward enters and leaves a unit's module: module hooks, around all that the model brings along. Backward
enters it with the first node that needs its weights, and has left it when the gradient of one of its inputs is known.
Autograd runs nodes in descending order of creation, so when the node that made an input runs, all nodes of the module
have run. Where one unit's output is the next one's input, both events meet at one node: the tensor hook (leaving) runs
before the node's prehook (entering), so two neighbours may share memory. Units whose inputs require no gradient are
left when another unit needs their memory, or at the end of the pass.

[Note: entering backward] Two hooks see which node comes first. The nodes that made a module's outputs (and the bases of
outputs that are views) have prehooks: these cost nothing per tensor, and miss what leaves a module in other ways. And
while a module of a unit that shares its memory runs, and around it while the model does, what autograd saves is
wrapped: whoever unpacks it enters the module's units, and gathers what is unpacked. On a GPU, where the host's time
counts, this ends once two passes have not needed it; from then on a node that would read weights which are not there
raises (`zerokit.zero.model.views`, [Note: valid views]).

The hooks wrap `module.forward` from outside, so neither `torch.compile` of a block nor its activation checkpointing
meets them. A model's own checkpoint around several units does: its recomputation gathers them again; one inside a unit
does by reading its parameters.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map_only

from zerokit.zero.gather import Gatherer
from zerokit.zero.model import passes
from zerokit.zero.model.passes import in_backward
from zerokit.zero.model.views import Views, weakly
from zerokit.zero.reduce import Reducer
from zerokit.zero.unit import Slot, Unit

GONE = "The engine of this model is gone: keep the engine as long as its model is used, or call engine.detach() first."
QUIET = 2
"""Passes in which nothing was unpacked before its unit was entered, after which a GPU's units are not watched."""
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


def tensors_in(value: Any, found: list[Tensor]) -> bool:
    """Append the tensors in nested containers and dataclasses; whether that is all there can be."""
    if isinstance(value, Tensor):
        found.append(value)
        return True
    if isinstance(value, PLAIN):
        return True
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return all([tensors_in(getattr(value, field.name), found) for field in dataclasses.fields(value)])
    leaves = tree_leaves(value)
    if len(leaves) == 1 and leaves[0] is value:
        return False
    return all([tensors_in(leaf, found) for leaf in leaves])


def _tensors_given(args: tuple, kwargs: dict) -> list[Tensor]:
    """The tensors among the arguments of a call."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        tensors_in(value, found)
    return found


def nodes_of(tensors: Sequence[Tensor]) -> list[Node]:
    """The nodes that made tensors, and the bases of those that are views."""
    nodes = []
    for tensor in tensors:
        if tensor.grad_fn is not None:
            nodes.append(tensor.grad_fn)
            base = tensor._base
            if base is not None and base.grad_fn is not None:
                nodes.append(base.grad_fn)
    return nodes


@dataclasses.dataclass(slots=True)
class _Saved:
    """A tensor that autograd saved, which nobody may have written to since."""

    tensor: Tensor
    version: int
    module: ModuleHooks

    def unpack(self) -> Tensor:
        self.module.entered()
        if self.tensor._version != self.version:
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace operation: a "
                f"{self.tensor.dtype} tensor of shape {tuple(self.tensor.shape)} is at version {self.tensor._version}; "
                f"expected version {self.version} instead."
            )
        return self.tensor


@dataclasses.dataclass(slots=True)
class _SavedWeight:
    """A view of a unit's weights that autograd saved; `version`: of which step."""

    tensor: Tensor
    module: ModuleHooks
    unit: Unit
    version: int

    def unpack(self) -> Tensor:
        self.module.unpacked(self.unit, self.version)
        return _lasting(self.tensor)


@dataclasses.dataclass(slots=True)
class _SavedBelow:
    """What the hooks that were there before made of a tensor."""

    packed: Any
    unpack_below: Callable[[Any], Tensor]
    module: ModuleHooks

    def unpack(self) -> Tensor:
        tensor = self.unpack_below(self.packed)
        self.module.entered()
        return _lasting(tensor) if self.module.is_weight(tensor) else tensor


def _lasting(weight: Tensor) -> Tensor:
    """A graph of the pass under way (create_graph=True) will save it again, and other units take its memory before that
    is used."""
    return weight.detach().clone() if torch.is_grad_enabled() else weight


def _unpack(saved: _Saved | _SavedWeight | _SavedBelow) -> Tensor:
    return saved.unpack()


class Hooks:
    """Connects modules with the gathers and reductions of their units.

    member: the engine, as backward passes know it. compute: the format of activations; inputs are cast to it.
    """

    def __init__(self, gatherer: Gatherer, reducer: Reducer, member: passes.Member, compute: torch.dtype, watch: bool):
        self.gatherer, self.reducer, self.compute, self.watch = gatherer, reducer, compute, watch
        self._member = weakref.ref(member)
        self.slots: dict[int, Slot] = {}
        self._modules: list[ModuleHooks] = []
        self._handles: list[Any] = []

    def attach(self, module: nn.Module, units: Sequence[Unit], root: bool = False,
               readers: Sequence[nn.Module] = ()) -> None:  # fmt: skip
        """Gather `units` around the passes through `module`. root: it is the model. readers: the modules in it whose
        parameters are gathered by whoever reads them."""
        hooks = ModuleHooks(self, module, units, root)
        if hasattr(module.forward, "_torchdynamo_orig_callable"):
            hooks.unwatched = [
                (reader.__dict__, reader._parameters, dict(dict.items(reader._parameters))) for reader in readers
            ]
        self._modules.append(hooks)
        self._handles += hooks.register(module)
        for unit in units:
            self.slots[unit.slot.buffer.untyped_storage()._cdata] = unit.slot

    def cast_inputs(self, module: nn.Module) -> None:
        """Bring the inputs of a module that has parameters of its own to the compute format."""
        compute = self.compute

        def convert(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:  # traced where it is compiled
            return cast((args, kwargs), compute)

        self._handles.append(module.register_forward_pre_hook(convert, prepend=True, with_kwargs=True))

    def read_before(self, module: nn.Module, views: Sequence[Views]) -> None:
        """Gather what a module keeps in places of its own beside its `_parameters`."""

        def read(*_: Any) -> None:
            for own in views:
                if not own.readable:
                    own.read()

        self._handles.append(module.register_forward_pre_hook(read, prepend=True))

    def detach(self) -> None:
        """Remove all hooks from the model."""
        for handle in self._handles:
            handle.remove()

    def end_pass(self) -> None:
        """A backward pass that met this engine is over."""
        for module in self._modules:
            module.end_pass()

    def meet(self) -> passes.Pass:
        """The backward pass under way has come to this engine."""
        return passes.meet(self._alive())

    def _alive(self) -> passes.Member:
        member = self._member()
        if member is None:
            raise RuntimeError(GONE)
        return member

    def reduce(self, units: Sequence[Unit]) -> None:
        """Hand over the units' gradients as far as they are complete and the pass trains this engine."""
        now, member = self.meet(), self._alive()
        if now.inner or not now.trains(member):
            return
        for unit in units:
            if not unit.reduced and unit.complete:
                member.begin_micro_batch()
                self.reducer.reduce_complete(unit)


def explain(error: BaseException) -> None:
    """Say what autograd's complaint about a hidden weight means."""
    if isinstance(error, RuntimeError) and "modified by an inplace operation" in str(error):
        error.add_note(
            "If the tensor is a weight: backward came to it in a way that could not be followed, and another unit's "
            "weights lay in its place; or the weights were updated since the forward pass. Set zero.guard=always, or "
            "name in zero.units a module that contains all that uses it."
        )


def cast(values: Any, dtype: torch.dtype) -> Any:
    """Nested values, whose floating-point tensors get a format."""
    return tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, values)


class ModuleHooks:
    """The hooks of one module and its units.

    watched: what autograd saves while the module runs is wrapped.
    unwatched: attributes of modules, their `Parameters`, and what takes their place while a compiled forward runs: its
    guards would ask for each parameter in Python (measured on a CPU: 30 us a call), and it reads what is gathered.
    """

    def __init__(self, hooks: Hooks, module: nn.Module, units: Sequence[Unit], root: bool):
        self._hooks = weakref.ref(hooks)  # which has this
        self.units, self.root = units, root
        self.trainable = [unit for unit in units if unit.trainable]
        self.needed_in_backward = [unit for unit in units if not unit.in_place and not isinstance(module, nn.Embedding)]
        self.casts = root or (hooks.compute != torch.float32 and getattr(module, "casts_inputs", True))
        self.may_share = any(hooks.gatherer.shares(unit) for unit in units)
        self.watched = self.may_share or (root and hooks.gatherer.takes_turns)
        self.opaque, self._quiet = False, 0
        self._runs: list[_Run] = []
        self.unwatched: list[tuple[dict, dict, dict]] = []

    @property
    def hooks(self) -> Hooks:
        """Those of the engine."""
        hooks = self._hooks()
        if hooks is None:
            raise RuntimeError(GONE)
        return hooks

    def register(self, module: nn.Module) -> list[Any]:
        """Put the hooks around all that the module has; their handles."""
        enter, leave = weakly(self.before_forward, GONE), weakly(self.after_forward, GONE)
        return [
            module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True),
            module.register_forward_hook(leave, always_call=True),
        ]

    # -- forward -----------------------------------------------------------------------------------------------------

    def before_forward(self, _module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Gather the units; from here on what autograd saves is theirs."""
        run, gatherer, backward = _Run(), self.hooks.gatherer, in_backward()
        self._runs.append(run)
        if self.root and not backward:
            gatherer.begin()
        given, changed = _tensors_given(args, kwargs), None
        if self.casts and any(t.is_floating_point() and t.dtype != self.hooks.compute for t in given):
            changed = args, kwargs = cast((args, kwargs), self.hooks.compute)
            given = _tensors_given(args, kwargs)
        for unit in self.units:
            gatherer.activate(unit, backward=backward)
        if torch.is_grad_enabled():
            self._begin(run, given)
        for attributes, _, plain in self.unwatched:
            attributes["_parameters"] = plain
        return changed

    def _begin(self, run: _Run, given: Sequence[Tensor]) -> None:
        for tensor in given if self.units else ():
            if tensor.requires_grad and not tensor.is_leaf:
                tensor.register_hook(self.after_backward)
        run.inputs, run.watch = nodes_of(given), self._watch()

    def _watch(self) -> saved_tensors_hooks | None:
        below = torch._C._autograd._top_saved_tensors_default_hooks(False)
        below = getattr(below[0], "below", below) if below is not None else None  # the model's own do what these do
        # A checkpoint below counts what is saved, in the forward pass and again: neither may change.
        if not (self.watched or (self.may_share and below is not None)):
            return None
        watch = saved_tensors_hooks(self._pack_over(below), _unpack)
        watch.__enter__()
        return watch

    def _pack_over(self, below: tuple[Callable, Callable] | None) -> Callable[[Tensor], Any]:
        slots, gatherer = self.hooks.slots, self.hooks.gatherer

        def pack(tensor: Tensor) -> _Saved | _SavedWeight | _SavedBelow:
            slot = slots.get(tensor.untyped_storage()._cdata)
            if slot is not None and slot.owner is not None:
                return _SavedWeight(tensor if tensor.is_leaf else tensor.detach(), self, slot.owner, gatherer.version)
            if below is not None:
                return _SavedBelow(below[0](tensor), below[1], self)
            # Detached: the node that saves it may have made it.
            return _Saved(tensor if tensor.is_leaf else tensor.detach(), tensor._version, self)

        pack.below = below
        return pack

    def after_forward(self, _module: nn.Module, _args: tuple, output: Any) -> None:
        """Let go of the units, also after an error."""
        run = self._runs.pop()
        for attributes, asking, _ in self.unwatched:
            attributes["_parameters"] = asking
        if run.watch is not None:
            run.watch.__exit__()
        gatherer = self.hooks.gatherer
        if torch.is_grad_enabled():
            self._follow(output, run.inputs)
        if in_backward():  # a recomputation: backward still needs the weights
            return
        for unit in self.units:
            gatherer.release(unit)
        if self.root:
            gatherer.end()

    def _follow(self, output: Any, inputs: Sequence[Node]) -> None:
        made: list[Tensor] = []
        if not tensors_in(output, made) and self.may_share:
            self.opaque = self.watched = True
        for node in dict.fromkeys(nodes_of(made)):
            if not any(node is given for given in inputs):
                node.register_prehook(self.before_backward)

    # -- backward ----------------------------------------------------------------------------------------------------

    def before_backward(self, _gradients: tuple) -> None:
        """A node is about to run that made an output."""
        self._enter(self.needed_in_backward)

    def _enter(self, units: Sequence[Unit]) -> None:
        self.hooks.meet()
        for unit in units:
            self.hooks.gatherer.activate(unit, backward=True)

    def entered(self) -> None:
        """A node is about to run that the module's forward has made."""
        if in_backward() and not all(unit.model_views.readable for unit in self.needed_in_backward):
            self._quiet = -1  # this pass needed it
            self._enter(self.needed_in_backward)

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether a tensor lies where units take turns."""
        return tensor.untyped_storage()._cdata in self.hooks.slots

    def unpacked(self, unit: Unit, version: int) -> None:
        """A node is about to run that needs weights as they were in the forward pass.

        Raises:
            RuntimeError: they have been updated since.
        """
        if unit.trainable and version != self.hooks.gatherer.version:
            raise RuntimeError(
                f"The weights of '{unit.name}' have been updated since the forward pass whose backward pass needs "
                "them: call engine.step() after the backward passes of everything that was computed before."
            )
        if not unit.model_views.readable:
            self._quiet = -1  # this pass needed it
            self._enter([unit])

    def after_backward(self, _gradient: Tensor) -> None:
        """The gradient of an input is known."""
        self.hooks.reduce(self.trainable)
        for unit in self.units:
            self.hooks.gatherer.release(unit)

    def end_pass(self) -> None:
        """A backward pass of the engine is over."""
        self._quiet += 1
        if self._quiet >= QUIET and not self.hooks.watch and not self.opaque:
            self.watched = False


@dataclasses.dataclass(slots=True)
class _Run:
    """A pass through a module's forward. inputs: the nodes that made its inputs."""

    inputs: Sequence[Node] = ()
    watch: saved_tensors_hooks | None = None
