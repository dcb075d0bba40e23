"""Weights to evaluate and export, where an optimizer trains others: such as the averages of schedule-free training."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zerokit.zero.access.parts import EngineParts
from zerokit.zero.update.states import of_elements


class EvaluationWeights:
    """Puts an engine's evaluation weights in place of those in training, and these back bit for bit.

    Meanwhile a copy of this rank's weights is kept. Does nothing for optimizers whose rules have no `evaluate`.
    """

    def __init__(self, engine: EngineParts):
        self._engine = weakref.proxy(engine)  # which has this
        update = engine._update
        self._parts = [(part, rule) for part, rule in update.parts() if rule.evaluate is not None]
        self._open = False

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The evaluation weights are there for the time of the block. A collective."""
        started = bool(self._parts) and not self._open
        if not started:
            yield
            return
        self._open = True
        kept = self._replace()
        try:
            yield
        finally:
            self._restore(kept)
            self._open = False

    @torch.no_grad()
    def _replace(self) -> list:
        engine, kept = self._engine, []
        engine.reader.begin()
        master = engine._update.master
        staging, compute = engine._update.staging, engine.comm.compute
        staging.begin()
        for part, rule in self._parts:
            with staging.here(part, compute) as here:
                extra = None if part.extra is None else torch.empty_like(part.extra).copy_(here.extra)
                kept.append((here.weight.clone(), extra))
                pairs = zip(of_elements(rule.states), here.state, strict=True)
                states = [values for state, values in pairs if state.name in rule.evaluates]
                master.store(here.weight, here.extra, rule.evaluate(master.load(here.weight, here.extra), states))
        self._changed()
        return kept

    @torch.no_grad()
    def _restore(self, kept: list) -> None:
        self._engine.reader.begin()
        staging = self._engine._update.staging
        staging.begin()
        for (part, _), (weight, extra) in zip(self._parts, kept, strict=True):
            with staging.here(part, self._engine.comm.compute) as here:
                here.weight.copy_(weight)
                if extra is not None:
                    here.extra.copy_(extra)
        self._changed()
        self._engine.gatherer.finish()

    def _changed(self) -> None:
        """Shards have been written on the compute stream: gathers follow it."""
        for unit in self._engine.storage.trainable:
            unit.updated = self._engine.comm.compute.record()
        self._engine.gatherer.weights_changed()
