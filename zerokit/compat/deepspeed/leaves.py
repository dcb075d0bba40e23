"""`set_z3_leaf_modules` and its relatives: marks alone, as inner units that some ranks skip hang nothing here."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

MARK = "_z3_leaf"


def _matching(model: nn.Module, classes: Iterable[type | str]) -> list[nn.Module]:
    wanted = list(classes)

    def fits(module: nn.Module) -> bool:
        own = type(module)
        names = (own.__name__, f"{own.__module__}.{own.__qualname__}")
        return any(own is one if isinstance(one, type) else one in names for one in wanted)

    found = [module for module in model.modules() if fits(module)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no module of {', '.join(map(str, wanted)) or 'no class'}.")
    return found


def set_z3_leaf_modules(model: nn.Module, leaf_module_classes: Iterable[type | str]) -> list[nn.Module]:
    """Mark the modules of these classes (or names of classes), and return them.

    Raises:
        ValueError: there is none.
    """
    found = _matching(model, leaf_module_classes)
    for module in found:
        set_z3_leaf_module(module, True)
    return found


def unset_z3_leaf_modules(model: nn.Module, leaf_module_classes: Iterable[type | str]) -> list[nn.Module]:
    """Take the marks off again, and return the modules."""
    found = _matching(model, leaf_module_classes)
    for module in found:
        set_z3_leaf_module(module, False)
    return found


def set_z3_leaf_module(model: nn.Module, flag: bool) -> None:
    """Mark a module, or take its mark off."""
    setattr(model, MARK, flag)


def z3_leaf_module(model: nn.Module) -> bool:
    """Whether a module is marked."""
    return getattr(model, MARK, False)


def get_z3_leaf_modules(model: nn.Module) -> list[nn.Module]:
    """The marked modules of a model."""
    return [module for module in model.modules() if z3_leaf_module(module)]


def z3_leaf_parameter(parameter: nn.Parameter) -> bool:
    """Whether a parameter is of a leaf: none needs to be."""
    return False
