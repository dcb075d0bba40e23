"""An optimizer whose moments take fewer bytes between its updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zerokit.optimizer._base import Optimizer, Reading, State, matches
from zerokit.optimizer._formats import noise, reading


def pack(optimizer: Optimizer) -> Optimizer:
    """The optimizer with its moments in the format of its options, `moments`."""
    optimizer.readings = _readings("fp32", optimizer.states)
    return optimizer if optimizer.options.moments == "fp32" else Packed(optimizer, optimizer.options)


def _readings(moments: str, states: Sequence[State]) -> tuple[Reading, ...]:
    return tuple(reading(moments, state) for state in states if state.moment is not None)


class Packed(Optimizer):
    """`inner`, which finds and leaves its moments as fp32; in memory they lie in another format.

    Parameters with fewer than two dimensions, which are small, and those that `full_precision` names are left to
    `inner`. options: have `moments` and `full_precision`.
    """

    def __init__(self, inner: Optimizer, options: Any):
        super().__init__(inner.options)
        self._inner, self._small = inner, options
        self.readings = _readings(options.moments, inner.states)
        formats = {found.name: found.format for found in self.readings}
        self._formats = [formats.get(state.name) for state in inner.states]
        self._planes = [form.planes if form else (s,) for form, s in zip(self._formats, inner.states, strict=True)]
        self.states: Sequence[State] = tuple(plane for planes in self._planes for plane in planes)
        self.phases, self.kept, self.tables, self.compiles = inner.phases, inner.kept, inner.tables, inner.compiles
        self.evaluate, self.evaluates = inner.evaluate, inner.evaluates
        for phase in inner.phases:
            setattr(self, phase.method, self._packing(getattr(inner, phase.method), state_first=True))
            if phase.whole is not None:
                setattr(self, phase.whole, getattr(inner, phase.whole))
        self.update = self._packing(inner.update, state_first=False)
        self._others: dict[Optimizer, Packed] = {}

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        return self._inner.lr

    @property
    def momentum(self) -> float | None:
        """That of `inner`."""
        return self._inner.momentum

    def rule(self, name: str, ndim: int) -> Optimizer:
        """The optimizer of a parameter."""
        rule = self._inner.rule(name, ndim)
        if ndim < 2 or matches(name, self._small.full_precision):
            return rule
        if rule is self._inner:
            return self
        if rule not in self._others:
            self._others[rule] = Packed(rule, self._small)
        return self._others[rule]

    def scalars(self, now: Any) -> dict[str, Any]:
        """Those of `inner`, and the step, on which rounding depends."""
        return {**self._inner.scalars(now), "rounding": now.step}

    def absorb(self, name: str, old: Any, total: Any, s: Any) -> Any:
        """As `inner` does."""
        return self._inner.absorb(name, old, total, s)

    def keep(self, now: Any) -> dict[str, Any]:
        """As `inner` does."""
        return self._inner.keep(now)

    def _packing(self, formula: Callable, state_first: bool) -> Callable:
        """`formula` of `inner` on planes; what it returns begins with its states, or ends with them."""

        def packed(p: Any, g: Any, state: tuple, s: dict) -> tuple:
            values = self._load(state)
            result = formula(p, g, values, s)
            new = self._store(state, values, result[0 if state_first else 1], g, s["rounding"])
            return (new, result[1]) if state_first else (result[0], new)

        return packed

    def _load(self, state: tuple) -> tuple:
        """The values that `inner` knows."""
        return tuple(
            planes[0] if form is None else form.load(planes)
            for form, planes in zip(self._formats, self._of_each(state), strict=True)
        )

    def _store(self, state: tuple, old: tuple, new: tuple, g: Any, step: Any) -> tuple:
        """Planes of new values; what has not changed stays as it is, to the bit."""
        made: list[Any] = []
        for form, planes, before, after in zip(self._formats, self._of_each(state), old, new, strict=True):
            if form is None:
                made.append(after)
            elif after is before:
                made += planes
            else:
                made += form.store(after, noise(after, g, step))
        return tuple(made)

    def _of_each(self, state: tuple) -> list[tuple]:
        """The planes of each of `inner`'s states."""
        found, start = [], 0
        for planes in self._planes:
            found.append(state[start : start + len(planes)])
            start += len(planes)
        return found
