"""What every optimizer has in common. Needs no torch: formulas use the methods of the tensors they are given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class DecayOptions:
    """Options about which parameters weight decay applies to."""

    weight_decay: float = 0.0
    """Weight decay of matrices and other parameters with two or more dimensions."""
    decay_norms_and_biases: bool = False
    """Whether parameters with fewer than two dimensions (norms, biases) decay as well."""


class Optimizer:
    """An elementwise optimizer: how it changes one element, given what all elements share.

    Subclasses define `state_names` and the pure functions `scalars` and `update`, as `zerokit.zero.update.Elementwise`
    describes them.
    """

    state_names: tuple[str, ...] = ()

    def __init__(self, options: DecayOptions):
        self.options = options

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        return self.options.lr


def check_range(low: float = 0.0, high: float = float("inf"), **values: float) -> None:
    """Raise ValueError for a value outside `[low, high)`, naming it."""
    for key, value in values.items():
        if not low <= value < high:
            limit = f"at least {low:g}" if high == float("inf") else f"in [{low:g}, {high:g})"
            raise ValueError(f"{key} must be {limit}, got {value:g}.")
