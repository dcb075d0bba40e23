"""Whether the ranks still hold the same where they should."""

from __future__ import annotations

import logging

from zerokit.callbacks import Callback
from zerokit.fault import Ended
from zerokit.train.trainer import Trainer
from zerokit.zero.access.replicas import Replicas

log = logging.getLogger("zerokit")


class Verification(Callback):
    """Every `every` steps compares what the ranks hold alike."""

    def __init__(self, trainer: Trainer, every: int):
        self._replicas, self._every = Replicas(trainer.engine), every

    def on_start(self) -> None:
        """Say it if there is nothing to compare."""
        if not self._replicas:
            log.warning("state.verify_every: no rank holds the same as another here, so nothing is compared.")

    def on_step(self, step: int, metrics: dict[str, float] | None) -> None:
        """Compare if it is time to. A collective.

        Raises:
            Ended: a rank holds other values, and of which parameter.
        """
        if self._replicas and step % self._every == 0:
            difference = self._replicas.difference()
            if difference is not None:
                raise Ended(f"the weights or states of the ranks are not the same after step {step}: {difference}")
