"""Whether the ranks still hold the same where they should."""

from __future__ import annotations

import logging
from collections.abc import Callable

from zerokit.fault import Ended
from zerokit.train.trainer import Trainer
from zerokit.zero.replicas import Replicas

log = logging.getLogger("zerokit")


def verification(trainer: Trainer, every: int) -> Callable[[int], None]:
    """What to call after each step: every `every` steps it compares what the ranks hold alike.

    Raises (the function, on all ranks):
        Ended: a rank holds other values, and of which parameter.
    """
    replicas = Replicas(trainer.engine) if every else None
    if every and not replicas:
        log.warning("state.verify_every: no rank holds the same as another here, so nothing is compared.")

    def verify(step: int) -> None:
        if replicas and step % every == 0:
            difference = replicas.difference()
            if difference is not None:
                raise Ended(f"the weights or states of the ranks are not the same after step {step}: {difference}")

    return verify
