"""Adam: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1; weight decay as L2 penalty."""

from __future__ import annotations

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.optimizer._base import MomentOptions, Optimizer, SmallStates, State
from zerokit.optimizer._packed import pack


@dataclass
class AdamOptions(MomentOptions, SmallStates):
    """Adam with the defaults of the paper."""

    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.0
    """L2 penalty, added to the gradient, of parameters with two or more dimensions."""


class Adam(Optimizer):
    """g ← g + λp; m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²; p ← p - lr·m̂ / (√v̂ + ε)."""

    states = (State("exp_avg", moment="mean"), State("exp_avg_sq", moment="square"))

    def scalars(self, now):
        """Penalty, step size and root of the second bias correction."""
        beta1, beta2 = now.momentum, self.options.beta2
        return {
            "penalty": now.weight_decay,
            "follow": 1 - beta1,
            "step_size": now.lr / (1 - beta1**now.step),
            "root_correction": (1 - beta2**now.step).sqrt(),
        }

    def update(self, p, g, state, s):
        """New values and moments of elements `p` with gradients `g`, all (n,) fp32."""
        o = self.options
        mean, square = state
        g = g + s["penalty"] * p
        mean = mean.lerp(g, s["follow"])
        square = square * o.beta2 + g * g * (1 - o.beta2)
        return p - s["step_size"] * mean / (square.sqrt() / s["root_correction"] + o.eps), (mean, square)


@register("optimizer", "adam", AdamOptions)
def build(options: AdamOptions) -> Optimizer:
    """The optimizer with these options."""
    return pack(Adam(options))
