"""What one kernel updates: elements of one unit and hyperparameter group, as views of the arenas."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from zerokit.zero.layout import Span
from zerokit.zero.storage import Storage
from zerokit.zero.unit import Unit
from zerokit.zero.update.states import of_elements


@dataclass
class Part:
    """Views of elements. known: results of phases, for this part. number: of the parameter
    (`zerokit.zero.update.unused`), where they are all of one. away: those of `extra` and `state` that lie on the host,
    in this order."""

    weight: Tensor
    extra: Tensor | None
    gradient: Tensor
    state: tuple[Tensor, ...]
    group: int
    known: dict[str, Tensor] = field(default_factory=dict)
    number: int | None = None
    away: tuple[Tensor, ...] = ()


def make_part(storage: Storage, unit: Unit, span: Span, shape: tuple[int, ...] = (-1,)) -> Part:
    """The views of some elements of a unit, of one hyperparameter group."""
    declared = of_elements(storage.states.rules[span.group].states)
    views = zip(declared, storage.states.views(unit, span), strict=True)
    states = tuple(view.view(shape) if state.per == 1 else view for state, view in views)
    extra = None if unit.extra is None else unit.extra.at(span).view(shape)
    away = [extra] if unit.away and extra is not None else []
    away += [v for s, v in zip(declared, states, strict=True) if storage.states.is_away(s, unit)]
    weight, gradient = unit.weight.at(span).view(shape), unit.gradient.at(span).view(shape)
    return Part(weight, extra, gradient, states, span.group, away=tuple(away))
