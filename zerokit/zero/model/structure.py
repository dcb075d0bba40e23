"""Whether a model is still the one that was divided."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


class Structure:
    """The modules and parameters of a model at one moment, and which of them require gradients.

    Compared at the start of every step: a few numbers per module, by identity.
    """

    def __init__(self, model: nn.Module):
        self.modules = list(model.modules())
        self._dicts = [entries for module in self.modules for entries in _entries(module)]
        self._members = [tuple(map(id, dict.values(entries))) for entries in self._dicts]
        self._kept = [tuple(dict.values(entries)) for entries in self._dicts]  # so that no identity is given twice
        self._parameters = list(model.parameters())
        self._required = [p.requires_grad for p in self._parameters]

    def has_changed(self) -> bool:
        """Whether a module or parameter was replaced, added or removed, frozen or made trainable since."""
        if [p.requires_grad for p in self._parameters] != self._required:
            return True
        pairs = zip(self._dicts, self._members, strict=True)
        return any(tuple(map(id, dict.values(entries))) != members for entries, members in pairs)


def _entries(module: nn.Module) -> Iterator[dict]:
    for entries in (module.__dict__["_modules"], module.__dict__["_parameters"]):
        if entries:
            yield entries
