"""LAMB: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", 2020, algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.optimizer._base import MomentOptions, Optimizer, Phase, SmallStates, State, check_range
from zerokit.optimizer._packed import pack


@dataclass
class LambOptions(MomentOptions, SmallStates):
    """Adam's direction, with a length in proportion to that of each parameter; for large batches."""

    lr: float = 2e-3
    """Peak learning rate."""
    eps: float = 1e-6
    """Added to the root of the second moment."""
    weight_decay: float = 0.01
    """Decoupled weight decay, part of the direction, of parameters with two or more dimensions."""
    min_ratio: float = 0.0
    """Smallest ratio of a parameter's norm to that of its direction (DeepSpeed: 0.01)."""
    max_ratio: float = 10.0
    """Largest ratio of a parameter's norm to that of its direction."""

    def check(self) -> None:
        """The ratios are in order."""
        super().check()
        check_range(min_ratio=self.min_ratio)
        if self.max_ratio < self.min_ratio:
            raise ValueError(f"max_ratio={self.max_ratio:g} is below min_ratio={self.min_ratio:g}.")


class Lamb(Optimizer):
    """m, v as in Adam; u = m̂ / (√v̂ + ε) + λp; p ← p - lr·(‖p‖ / ‖u‖)·u, with norms over whole parameters."""

    states = (State("exp_avg", moment="mean"), State("exp_avg_sq", moment="square"))
    phases = (Phase("measure", sums={"weight": "all", "direction": "all"}),)

    def scalars(self, now):
        """Learning rate, decay, and corrections of both moments."""
        beta1, beta2 = now.momentum, self.options.beta2
        return {
            "lr": now.lr,
            "decay": now.weight_decay,
            "follow": 1 - beta1,
            "correction": 1 - beta1**now.step,
            "root_correction": (1 - beta2**now.step).sqrt(),
        }

    def _direction(self, p, state, s):
        mean, square = state
        return mean / s["correction"] / (square.sqrt() / s["root_correction"] + self.options.eps) + s["decay"] * p

    def measure(self, p, g, state, s):
        """New moments of elements `p` with gradients `g`, and squared norms of weights and direction."""
        beta2 = self.options.beta2
        state = (state[0].lerp(g, s["follow"]), state[1] * beta2 + g * g * (1 - beta2))
        direction = self._direction(p, state, s)
        return state, {"weight": (p * p).sum(), "direction": (direction * direction).sum()}

    def update(self, p, g, state, s):
        """New values of elements `p`; their moments are those that `measure` left."""
        weight, direction = s["weight"].sqrt(), s["direction"].sqrt()
        ratio = (weight / direction).clamp(self.options.min_ratio, self.options.max_ratio)
        ratio = ratio.where((weight > 0) & (direction > 0), 1.0)
        return p - s["lr"] * ratio * self._direction(p, state, s), state


@register("optimizer", "lamb", LambOptions)
def build(options: LambOptions) -> Optimizer:
    """The optimizer with these options."""
    return pack(Lamb(options))
