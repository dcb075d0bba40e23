"""Which parameters share hyperparameters: by name, by dimensions, and by the rule that the optimizer has for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from zerokit.config import registry
from zerokit.config.errors import ConfigError, suggestion
from zerokit.config.registry import Choice
from zerokit.zero.numerics import ParameterGroups
from zerokit.zero.update.kernel import Group


@dataclass(frozen=True)
class _Entry:
    """Parameters with one set of options. patterns: of their names; None takes the rest."""

    patterns: Sequence[str] | None
    lr_factor: float
    optimizer: Any

    def takes(self, names: Sequence[str]) -> bool:
        return self.patterns is None or any(fnmatchcase(name, p) for name in names for p in self.patterns)


def parameter_groups(choice: Choice, optimizer: Any, model: nn.Module) -> ParameterGroups:
    """The hyperparameter groups of a model under `optimizer`, which was built from `choice`.

    Norms and biases do not decay unless the options say so; `optimizer.groups` and the optimizer's own `rule` divide
    further.

    Raises:
        ConfigError: a pattern of `optimizer.groups` matches no parameter.
    """
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    entries = _entries(choice, optimizer, names.values())
    places: dict[str, tuple] = {}
    groups: dict[tuple, Group] = {}
    for parameter, aliases in names.items():
        entry = next(entry for entry in entries if entry.takes(aliases))
        small = parameter.ndim < 2
        rule = entry.optimizer.rule(aliases[0], parameter.ndim)
        options = entry.optimizer.options
        decay = options.weight_decay if options.decay_norms_and_biases or not small else 0.0
        factor = entry.lr_factor * (rule.lr / optimizer.lr if optimizer.lr else 1.0)
        key = (entries.index(entry), rule is not entry.optimizer, small)
        groups[key] = Group(decay, factor, rule)
        places[aliases[0]] = key
    order = sorted(groups)
    return ParameterGroups([groups[key] for key in order], lambda name, parameter: order.index(places[name]))


def _entries(choice: Choice, optimizer: Any, names: Any) -> list[_Entry]:
    found = []
    every = [name for aliases in names for name in aliases]
    for index in range(len(choice.options.groups)):
        group = choice.options.group(index)
        for pattern in group.patterns:
            if not any(fnmatchcase(name, pattern) for name in every):
                raise ConfigError(
                    f"optimizer.groups[{index}].match: '{pattern}' matches no parameter of the model."
                    f"{suggestion(pattern, every)} Names are such as {', '.join(every[:3])}."
                )
        found.append(
            _Entry(group.patterns, group.lr_factor, registry.build("optimizer", Choice(choice.name, group.options)))
        )
    return [*found, _Entry(None, 1.0, optimizer)]
