"""What every optimizer has in common. Needs no torch: formulas use the methods of the tensors they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Along = Literal["rows", "columns", "all"]
"""Shape of a value that a parameter has as a whole. A parameter counts as a matrix (first dimension, all others), one
with fewer than two dimensions as a single row."""


@dataclass(frozen=True)
class State:
    """What an optimizer keeps from step to step beside the parameters.

    per: elements that share one value; divides 64, so that no shard's border cuts a block.
    along: None for states that are divided with the elements; else the state is small and whole on every rank.
    """

    name: str
    dtype: str = "float32"
    per: int = 1
    initial: float = 0.0
    along: Along | None = None


@dataclass(frozen=True)
class Phase:
    """A pass over all elements before the one that writes the weights, and how its results meet those of other ranks.

    method: name of `method(p, g, state, s) → (state, results)`, results by name.
    sums: results that are added up over each parameter and all ranks, and their shapes; later phases find them in `s`.
    whole: name of a `method(matrix) → matrix` that one rank applies to the result "whole" of a whole parameter, seen as
        a matrix; later phases find its elements in `s["whole"]`.
    """

    method: str
    sums: Mapping[str, Along] = field(default_factory=dict)
    whole: str | None = None


@dataclass
class OptimizerOptions:
    """Options of every optimizer: which parameters decay, and groups with values of their own."""

    weight_decay: float = 0.0
    """Weight decay of matrices and other parameters with two or more dimensions."""
    decay_norms_and_biases: bool = False
    """Whether parameters with fewer than two dimensions (norms, biases) decay as well."""
    groups: list[dict[str, Any]] = field(default_factory=list)
    """Parameters with values of their own: a `match` (name pattern with wildcards, or a list of them), and `lr_factor`
    or other options of the optimizer, such as {match: "*norm*", lr_factor: 0.1}. The first that matches counts."""


class Optimizer:
    """How parameters change, as pure functions over flat pieces of them.

    `scalars(now)` gives what all elements of a hyperparameter group share, from `now.lr`, `now.step` (from 1),
    `now.weight_decay` and `now.momentum` (0-dim float64; momentum None where `momentum` is). `update(p, g, state, s)`
    gives the new values and states of elements with fp32 values `p` and gradients `g`; `s` holds the scalars (fp32) and
    the results of `phases`. Neither changes anything in place, and neither may wait for a device.
    """

    states: Sequence[State] = ()
    phases: Sequence[Phase] = ()
    kept: Mapping[str, float] = {}
    """Numbers per hyperparameter group that the optimizer keeps, with their first values; `now.kept` holds them, and
    `keep(now)` gives the next ones."""
    compiles = True
    """Whether torch.compile may make one kernel of `update`."""
    evaluate: Callable | None = None
    """`evaluate(p, state) → p`: weights to evaluate and export, where they are not those that are trained."""

    def __init__(self, options: OptimizerOptions):
        self.options = options

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        return self.options.lr

    @property
    def momentum(self) -> float | None:
        """The momentum or first beta, which a schedule may change; None if there is none."""
        return getattr(self.options, "beta1", None)

    def rule(self, name: str, ndim: int) -> Optimizer:
        """The optimizer of the parameter `name` with `ndim` dimensions: this one, or one that it leaves it to."""
        return self

    def keep(self, now: Any) -> dict[str, Any]:
        """The next values of `kept`."""
        return {}


def check_range(low: float = 0.0, high: float = float("inf"), **values: float) -> None:
    """Raise ValueError for a value outside `[low, high)`, naming it."""
    for key, value in values.items():
        if not low <= value < high:
            limit = f"at least {low:g}" if high == float("inf") else f"in [{low:g}, {high:g})"
            raise ValueError(f"{key} must be {limit}, got {value:g}.")
