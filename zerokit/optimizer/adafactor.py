"""Adafactor: Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018, algorithms 4 to
6 with the defaults of section 9. A parameter counts as a matrix of its first dimension by all others, a vector as one
row, for which the factored second moment is the whole one."""

from __future__ import annotations

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.optimizer._base import Optimizer, OptimizerOptions, Phase, State, check_range


@dataclass
class AdafactorOptions(OptimizerOptions):
    """Second moments by rows and columns only: next to no memory beside the weights."""

    lr: float = 1e-2
    """Peak of the relative step size, which is at most 1 / √step."""
    decay: float = 0.8
    """The second moments follow the squared gradients by step ** -decay."""
    eps1: float = 1e-30
    """Added to squared gradients."""
    eps2: float = 1e-3
    """Least root mean square of a parameter that steps are relative to."""
    clip: float = 1.0
    """Largest root mean square of a parameter's step before it is multiplied with its size."""
    weight_decay: float = 0.0
    """Decoupled weight decay, per unit of learning rate, of parameters with two or more dimensions."""

    def check(self) -> None:
        """Nothing is negative, and there is a limit to clip to."""
        check_range(lr=self.lr, decay=self.decay, eps1=self.eps1, eps2=self.eps2)
        if not self.clip > 0:
            raise ValueError(f"clip must be above 0, got {self.clip:g}.")


class Adafactor(Optimizer):
    """R, C ← sums of g² over rows, columns; u = g / √(RC/ΣR); p ← p - α·u / max(1, rms(u)/d), α = max(ε₂, rms(p))·ρ."""

    momentum = None
    states = (State("row", along="rows"), State("column", along="columns"), State("total", along="all"))
    phases = (
        Phase("measure", sums={"row": "rows", "column": "columns", "total": "all", "weight": "all"}),
        Phase("direct", sums={"direction": "all"}),
    )

    def scalars(self, now):
        """Relative step size ρ, factor of the weights, and how far the moments follow."""
        return {
            "keep": 1 - now.lr * now.weight_decay,
            "rho": now.lr.minimum(now.step.rsqrt()),
            "follow": now.step**-self.options.decay,
        }

    def measure(self, p, g, state, s):
        """Sums of squared gradients by row and column, and of squared weights."""
        square = g * g + self.options.eps1
        return state, {"row": square.sum(1), "column": square.sum(0), "total": square.sum(), "weight": (p * p).sum()}

    def absorb(self, name, old, total, s):
        """Sums of squares that fade."""
        return old.lerp(total, s["follow"])

    def _direction(self, g, s):
        return g * (s["row"] / s["total"] * s["column"]).rsqrt()

    def direct(self, p, g, state, s):
        """Squared norm of the direction."""
        return state, {"direction": self._direction(g, s).square().sum()}

    def update(self, p, g, state, s):
        """New values of elements `p` (rows, columns) with gradients `g`."""
        o = self.options
        numel = s["rows"] * s["columns"]
        size = (s["weight"] / numel).sqrt().clamp(min=o.eps2)
        excess = ((s["direction"] / numel).sqrt() / o.clip).clamp(min=1.0)
        return p * s["keep"] - s["rho"] * size / excess * self._direction(g, s), state


@register("optimizer", "adafactor", AdafactorOptions)
def build(options: AdafactorOptions) -> Adafactor:
    """The optimizer with these options."""
    return Adafactor(options)
