"""Which parameters form a unit: a rule over modules, with no tensors moved."""

from __future__ import annotations

import fnmatch
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import nn

from zerokit.config.errors import ConfigError, suggestion
from zerokit.zero.layout import make_layout
from zerokit.zero.unit import Unit

LARGE = 2**22
"""Elements below which embeddings and output layers are not worth a gather of their own."""

GroupOf = Callable[[str, nn.Parameter], int]


def _is_row(module: nn.Module) -> bool:
    if isinstance(module, nn.ModuleList):
        return True
    return isinstance(module, nn.Sequential) and not any(isinstance(m, nn.ModuleList) for m in module.modules())


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated modules of a model: the members of every outermost `nn.ModuleList` that have parameters, or of an
    outermost `nn.Sequential` that contains no such list."""
    blocks: dict[nn.Module, None] = {}
    _collect_blocks(model, blocks, set())
    return list(blocks)


def _collect_blocks(module: nn.Module, blocks: dict[nn.Module, None], seen: set[nn.Module]) -> None:
    if module in seen:
        return
    seen.add(module)
    for child in module.children():
        # A container without a forward of its own is never called, so no hook would see it.
        if _is_row(module) and type(child).forward is not nn.Module.forward:
            blocks.update([(child, None)] if any(True for _ in child.parameters()) else [])
        else:
            _collect_blocks(child, blocks, seen)


def find_ends(model: nn.Module) -> list[nn.Module]:
    """Embedding and output layer of a language model that names them as `transformers` does, where they are large and
    share no weight."""
    ends = [end for side in ("input", "output") if (end := _end(model, f"get_{side}_embeddings")) is not None]
    counts = Counter(parameter for end in dict.fromkeys(ends) for parameter in end.parameters())
    return [end for end in dict.fromkeys(ends) if _is_large(end) and all(counts[p] == 1 for p in end.parameters())]


def _end(model: nn.Module, getter: str) -> nn.Module | None:
    try:
        end = getattr(model, getter, lambda: None)()
    except NotImplementedError:  # of models that look nothing up
        return None
    return end if isinstance(end, nn.Module) else None


def _is_large(module: nn.Module) -> bool:
    return sum(parameter.numel() for parameter in module.parameters()) >= LARGE


def unit_modules(model: nn.Module, patterns: Sequence[str] = ()) -> list[nn.Module]:
    """The modules that form units: those named by `patterns` (class names or names in the model, with wildcards), else
    what the model's own `units()` says, else its repeated blocks, and embeddings and head that the model names.

    Raises ConfigError for a pattern that matches no module.
    """
    if not patterns:
        named = inspect.ismethod(getattr(model, "units", None))
        return list(model.units()) if named else [*find_blocks(model), *find_ends(model)]
    chosen: dict[nn.Module, None] = {}
    for pattern in patterns:
        found = [
            module
            for name, module in model.named_modules()
            if name and (fnmatch.fnmatchcase(name, pattern) or type(module).__name__ == pattern)
        ]
        if not found:
            classes = sorted({type(m).__name__ for m in model.modules() if m is not model})
            raise ConfigError(
                f"zero.units: '{pattern}' matches no module; the model's classes are {', '.join(classes)}."
                f"{suggestion(pattern, classes)}"
            )
        chosen.update(dict.fromkeys(found))
    return [module for module in model.modules() if module in chosen]


FORMATS = (torch.float32, torch.bfloat16, torch.float16)
"""Of parameters that are divided; frozen ones of other formats stay as they are, whole on every rank."""


def unmanaged(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and frozen parameters of formats that are not divided."""
    return ((name, p) for name, p in model.named_parameters() if p.dtype not in FORMATS)


def check_model(model: nn.Module) -> None:
    """Refuse what would be trained otherwise than PyTorch does, or not at all.

    Raises:
        ConfigError: names the parameter or module.
    """
    for name, parameter in unmanaged(model):
        if parameter.requires_grad:
            format_ = str(parameter.dtype).removeprefix("torch.")
            help_ = "train a view_as_real() of it" if parameter.is_complex() else "convert the model with .float()"
            raise ConfigError(
                f"'{name}' is a {format_} parameter: float32, bfloat16 and float16 ones are trained, with fp32 master "
                f"weights. Freeze it, or {help_}."
            )
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            if module.max_norm is not None and module.weight.requires_grad:
                raise ConfigError(
                    f"'{name}' has max_norm={module.max_norm:g}: its forward pass writes to the weight, on each rank "
                    "for its own inputs, which master weights and shards would not keep. Scale the output instead."
                )
            module.sparse = False  # gradients are summed over the ranks as dense ones


def _owners(model: nn.Module) -> dict[nn.Parameter, list[nn.Module]]:
    owners: dict[nn.Parameter, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None and parameter.dtype in FORMATS:
                owners.setdefault(parameter, []).append(module)
    return owners


def _nested(chosen: set[nn.Module]) -> set[nn.Module]:
    """Those of `chosen` that contain another one or lie in it."""
    pairs = ((outer, inner) for outer in chosen for inner in outer.modules() if inner is not outer and inner in chosen)
    return {module for pair in pairs for module in pair}


def _assign(module: nn.Module, unit: nn.Module, chosen: set, model: nn.Module, home: dict) -> None:
    """Note the unit of a module and of all in it, the model's own where it has several."""
    unit = module if module in chosen else unit
    home[module] = unit if home.get(module, unit) is unit else model
    for child in module.children():
        _assign(child, home[module], chosen, model, home)


def partition(
    model: nn.Module, world: int, modules: Iterable[nn.Module], group_of: GroupOf, min_elements: int = 0
) -> list[Unit]:
    """Cut a model into units, in the order its parameters are first met; the root's own units come first.

    A parameter belongs to the innermost of `modules` that contains it. Parameters used by several of them (tied
    weights), and those in none, go to the root, whose weights stay whole while a step runs; so do modules of fewer than
    `min_elements` elements, for which a collective would cost more time than it saves memory.
    """
    chosen = {m for m in modules if sum(p.numel() for p in m.parameters()) >= min_elements}
    blocks, nested = set(find_blocks(model)), _nested(chosen)
    names = {module: name for name, module in model.named_modules()}
    home: dict[nn.Module, nn.Module] = {}
    _assign(model, model, chosen, model, home)
    members: dict[tuple[nn.Module, bool], list[tuple[str, nn.Parameter]]] = {}
    owners = _owners(model)
    for name, parameter in model.named_parameters():
        if parameter.dtype not in FORMATS:
            continue
        homes = {home[module] for module in owners[parameter]}
        unit = homes.pop() if len(homes) == 1 else model
        members.setdefault((unit, parameter.requires_grad), []).append((name, parameter))
    units = []
    for (module, trainable), named in members.items():
        layout = make_layout([p.numel() for _, p in named], world, [group_of(n, p) for n, p in named])
        kind = "root" if module is model else "nested" if module in nested else "block" if module in blocks else "outer"
        label = (names[module] or "root") + ("" if trainable else " (frozen)")
        units.append(Unit(label, [n for n, _ in named], [p for _, p in named], layout, trainable, module, kind))
    return sorted(units, key=lambda unit: unit.kind != "root")
