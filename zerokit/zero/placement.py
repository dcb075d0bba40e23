"""What a ZeRO stage is: where parameters, gradients and optimizer states lie. Pure facts, no tensors.

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Placement(Enum):
    """How a unit's flat buffer lies across the ranks."""

    REPLICATE = "replicate"  # every rank holds the same, whole buffer
    PARTIAL = "partial"  # every rank holds a whole buffer of its own; their sum is the value
    SHARD = "shard"  # every rank holds one of equally long, consecutive parts


class Collective(Enum):
    """What brings a buffer from one placement to another."""

    NOTHING = "nothing"
    VIEW = "view"
    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_REDUCE = "all_reduce"


R, P, S = Placement.REPLICATE, Placement.PARTIAL, Placement.SHARD

_TRANSITIONS = {
    (S, R): Collective.ALL_GATHER,
    (P, S): Collective.REDUCE_SCATTER,
    (P, R): Collective.ALL_REDUCE,
    (R, S): Collective.VIEW,
}


def transition(source: Placement, destination: Placement) -> Collective:
    """The collective that brings a buffer from `source` to `destination`."""
    if source is destination:
        return Collective.NOTHING
    if (source, destination) not in _TRANSITIONS:
        raise ValueError(f"no collective leads from {source.value} to {destination.value}")
    return _TRANSITIONS[source, destination]


@dataclass(frozen=True)
class Stage:
    """Placements of a unit's three kinds of state. The transitions between them are the whole behaviour of a stage:

    ========================================  ==================================
    when                                      transition
    ========================================  ==================================
    before use                                `parameter` → REPLICATE
    after the backward of a micro-batch       PARTIAL → `gradient`
    at the boundary of a step                 `gradient` → `optimizer`
    after the update                          `optimizer` → `parameter`
    ========================================  ==================================
    """

    parameter: Placement
    gradient: Placement
    optimizer: Placement

    def on(self, world: int) -> Stage:
        """This stage on `world` ranks: one rank's shard is the whole, so nothing moves."""
        return self if world > 1 else STAGES[0]


STAGES = {
    0: Stage(parameter=R, gradient=P, optimizer=R),
    1: Stage(parameter=R, gradient=P, optimizer=S),
    2: Stage(parameter=R, gradient=S, optimizer=S),
    3: Stage(parameter=S, gradient=S, optimizer=S),
}
