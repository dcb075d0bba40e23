"""Where the first values of a model come from, which all ranks must see in one way."""

from __future__ import annotations

from torch import nn

from zerokit.comm import Communicator
from zerokit.config.errors import ConfigError


def first_values(model: nn.Module, comm: Communicator) -> dict[str, None]:
    """The engine's keyword for where the first values come from: `seed=None`, rank 0 has them, if it has the model
    whole and some other rank has not; nothing, if all ranks have it whole, or all have it on the meta device. A
    collective.

    Raises:
        ConfigError: rank 0 lacks values that other ranks have.
    """
    missing = float(any(parameter.is_meta for parameter in model.parameters()))
    first, *others = [row[0] for row in comm.gather_row([missing])]
    if first and not all(others):
        raise ConfigError(
            f"model: rank 0 has {type(model).__name__} on the meta device, and other ranks have values. Rank 0's "
            "count: build it there, or on the meta device everywhere."
        )
    return {"seed": None} if any(others) and not first else {}
