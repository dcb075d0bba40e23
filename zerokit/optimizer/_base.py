"""What every optimizer has in common. Needs no torch: formulas use the methods of the tensors they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from zerokit.config.errors import ConfigError
from zerokit.config.parse import defaults, parse_fields, parse_value, to_plain, unknown_key

Along = Literal["rows", "columns", "all"]
"""Shape of a value that a parameter has as a whole. A parameter counts as a matrix (first dimension, all others), one
with fewer than two dimensions as a single row."""


@dataclass(frozen=True)
class State:
    """What an optimizer keeps from step to step beside the parameters.

    per: elements that share one value; divides 64, so that no shard's border cuts a block.
    initial: first value, or "parameter" for a copy of the parameter.
    along: None for states that are divided with the elements; else the state is small and whole on every rank.
    placement: None for that of the elements that a rank updates. A state that belongs to the exchange of `compressed`
        optimizers has its own: "partial" (every rank has a whole one of its own) or "shard" (each element on one rank).
    travels: the ranks exchange it in every step, so it stays on the device wherever the others are.
    moment: what may lie in a smaller format (`zerokit.optimizer._formats`): a "mean" of gradients, or a mean of their
        "square"s, which is never negative.
    """

    name: str
    dtype: str = "float32"
    per: int = 1
    initial: float | Literal["parameter"] = 0.0
    along: Along | None = None
    placement: Literal["partial", "shard"] | None = None
    travels: bool = False
    moment: Literal["mean", "square"] | None = None


HALF = 0x8000
"""In place of random numbers it lets a format round to the nearest."""


@dataclass(frozen=True)
class Format:
    """How fp32 values lie in memory between two updates.

    planes: the states that they take. load: fp32 values of the planes. store: planes of values, from values and random
    numbers in [0, 2¹⁶), or one number, which decide about rounding. Values and planes of one value per element are of
    any one shape.
    """

    planes: Sequence[State]
    load: Callable[[Sequence[Any]], Any]
    store: Callable[[Any, Any], Sequence[Any]]

    def nearest(self, value: Any) -> Sequence[Any]:
        """Planes of values, rounded to the nearest."""
        return self.store(value, HALF)


@dataclass(frozen=True)
class Reading:
    """A moment `name` in the format that it has, and the others in which saved states may have it."""

    name: str
    format: Format
    others: Sequence[Format]


@dataclass(frozen=True)
class Phase:
    """A pass over all elements before the one that writes the weights, and how its results meet those of other ranks.

    method: name of `method(p, g, state, s) → (state, results)`, results by name.
    sums: results that are added up over each parameter and all ranks, and their shapes; later phases find them in `s`.
    whole: name of a `method(matrix) → matrix` that one rank applies to the result "whole" of a whole parameter, seen as
        a matrix; later phases find its elements in `s["whole"]`. wire: format in which they travel.
    """

    method: str
    sums: Mapping[str, Along] = field(default_factory=dict)
    whole: str | None = None
    wire: str = "float32"


@dataclass
class OptimizerOptions:
    """Options of every optimizer: which parameters decay, and groups with values of their own. Subclasses check their
    values in `check`."""

    stages: ClassVar[Sequence[int] | None] = None
    """Stages whose placements the optimizer works with; None: all."""

    weight_decay: float = 0.0
    """Weight decay of matrices and other parameters with two or more dimensions."""
    decay_norms_and_biases: bool = False
    """Whether parameters with fewer than two dimensions (norms, biases) decay as well."""
    groups: list[dict[str, Any]] = field(default_factory=list)
    """Parameters with values of their own: a `match` (name pattern with wildcards, or a list of them), and `lr_factor`
    or other options of the optimizer, such as {match: "*norm*", lr_factor: 0.1}; a weight decay given there holds for
    all of them. The first group that matches counts."""

    def __post_init__(self) -> None:
        check_range(weight_decay=self.weight_decay)
        self.check()
        for index in range(len(self.groups)):
            self.group(index)

    def check(self) -> None:
        """Raise ValueError for values that cannot work."""

    def group(self, index: int) -> GroupOptions:
        """What `groups[index]` means.

        Raises:
            ConfigError: it has no `match`, or a key or value that this optimizer does not take.
        """
        path, entry = f"optimizer.groups[{index}]", dict(self.groups[index])
        own = {key: entry.pop(key) for key in ("match", "lr_factor") if key in entry}
        if "match" not in own:
            raise ConfigError(f"{path}: expected a name pattern match=PATTERN; got {', '.join(entry) or 'nothing'}.")
        allowed = [key for key in defaults(type(self)) if key not in ("lr", "groups")]
        for key in entry:
            if key not in allowed:
                raise unknown_key(path, key, ("match", "lr_factor", *allowed))
        patterns = own["match"] if isinstance(own["match"], list) else [own["match"]]
        factor = parse_value(float, own.get("lr_factor", 1.0), f"{path}.lr_factor")
        if "weight_decay" in entry:  # said of these parameters, whatever their dimensions
            entry.setdefault("decay_norms_and_biases", True)
        options = parse_fields(type(self), {**to_plain(self), "groups": [], **entry}, path)
        return GroupOptions(parse_value(list[str], patterns, f"{path}.match"), factor, options)


@dataclass(frozen=True)
class GroupOptions:
    """One of `optimizer.groups`: name patterns, factor of the learning rate, and all options."""

    patterns: list[str]
    lr_factor: float
    options: OptimizerOptions


@dataclass
class SmallStates(OptimizerOptions):
    """Options of optimizers whose moments may take fewer bytes."""

    moments: Literal["fp32", "bf16", "int8"] = "fp32"
    """Format of the moments of parameters with two or more dimensions: 4, 2 or 1.03 bytes for each; small formats round
    at random, so that averages do not stand still."""
    full_precision: list[str] = field(default_factory=list)
    """Name patterns of parameters whose moments are fp32 in any case."""


@dataclass
class MomentOptions(OptimizerOptions):
    """Options of optimizers that follow the mean of gradients and of their squares."""

    beta1: float = 0.9
    """Decay of the mean of gradients."""
    beta2: float = 0.999
    """Decay of the mean of squared gradients."""
    eps: float = 1e-8
    """Added to the root of the second moment."""

    def check(self) -> None:
        """Betas lie in [0, 1), the rest is not negative."""
        check_range(lr=self.lr, eps=self.eps)
        check_range(high=1.0, beta1=self.beta1, beta2=self.beta2)


class Optimizer:
    """How parameters change, as pure functions over flat pieces of them.

    `scalars(now)` gives what all elements of a hyperparameter group share, from `now.lr`, `now.step` (from 1),
    `now.weight_decay` and `now.momentum` (0-dim float64; momentum None where `momentum` is). `update(p, g, state, s)`
    gives the new values and states of elements with fp32 values `p` and gradients `g`; `s` holds the scalars (fp32)
    and, where there are `phases`, their results and the `rows` and `columns` of the parameter. Neither changes anything
    in place, and neither may wait for a device.
    """

    states: Sequence[State] = ()
    phases: Sequence[Phase] = ()
    kept: Mapping[str, float] = {}
    """Numbers per hyperparameter group that the optimizer keeps, with their first values; `now.kept` holds them, and
    `keep(now)` gives the next ones."""
    tables: Mapping[str, Sequence[float]] = {}
    """Constant vectors that `update` finds in `s`."""
    keeps_decay = False
    """Whether its weight decay is fixed when it is made, in place of `now.weight_decay`."""
    compiles = True
    """Whether torch.compile may make one kernel of `update`."""
    exact_steps: int | None = None
    """Steps after which ranks exchange compressed momenta in place of gradients, skipped ones included; None: never.
    From then on `momentum_of(mean, g, s)` gives a rank's own momentum of its own gradients, the exchange writes its
    mean over the ranks into the state `exp_avg`, and `update_compressed(p, state, s)` takes the place of `update`. The
    states `worker_error` and `server_error` are the exchange's."""
    evaluate: Callable | None = None
    """`evaluate(p, states) → p` gives the weights to evaluate and export, where they are not those that are trained."""
    evaluates: Sequence[str] = ()
    """Names of the states that `evaluate` takes, all of them fp32 with one value per element."""
    readings: Sequence[Reading] = ()
    """The moments that may lie in several formats."""

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

    def absorb(self, name: str, old: Any, total: Any, s: Mapping[str, Any]) -> Any:
        """The next values of the state `name`, which is whole on every rank, from the sums of the same name."""
        raise NotImplementedError

    def keep(self, now: Any) -> dict[str, Any]:
        """The next values of `kept`."""
        return {}


def check_range(low: float = 0.0, high: float = float("inf"), **values: float) -> None:
    """Raise ValueError for a value outside `[low, high)`, naming it."""
    for key, value in values.items():
        if not low <= value < high:
            limit = f"at least {low:g} and finite" if high == float("inf") else f"in [{low:g}, {high:g})"
            raise ValueError(f"{key} must be {limit}, got {value:g}.")


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a parameter's name is like one of the patterns with wildcards."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
