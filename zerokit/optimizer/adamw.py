"""AdamW: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.optimizer._base import MomentOptions, Optimizer, SmallStates, State
from zerokit.optimizer._packed import pack


@dataclass
class AdamWOptions(MomentOptions, SmallStates):
    """AdamW; the default betas suit small batches of tokens (Llama uses 0.95 for beta2)."""

    lr: float = 2e-3
    """Peak learning rate."""
    beta2: float = 0.99
    """Decay of the mean of squared gradients."""
    weight_decay: float = 0.1
    """Decoupled weight decay, per unit of learning rate, of parameters with two or more dimensions."""


class AdamW(Optimizer):
    """m ← β₁m + (1-β₁)g; v ← β₂v + (1-β₂)g²; p ← p(1-lr·λ) - lr·m̂ / (√v̂ + ε)."""

    states = (State("exp_avg", moment="mean"), State("exp_avg_sq", moment="square"))

    def scalars(self, now):
        """Factors of the weights and of the step, and root of the second bias correction."""
        beta1, beta2 = now.momentum, self.options.beta2
        return {
            "keep": 1 - now.lr * now.weight_decay,
            "follow": 1 - beta1,
            "step_size": now.lr / (1 - beta1**now.step),
            "root_correction": (1 - beta2**now.step).sqrt(),
        }

    def update(self, p, g, state, s):
        """New values and moments of elements `p` with gradients `g`, all (n,) fp32."""
        o = self.options
        mean, square = state
        mean = mean.lerp(g, s["follow"])
        square = square * o.beta2 + g * g * (1 - o.beta2)
        return p * s["keep"] - s["step_size"] * mean / (square.sqrt() / s["root_correction"] + o.eps), (mean, square)


@register("optimizer", "adamw", AdamWOptions)
def build(options: AdamWOptions) -> Optimizer:
    """The optimizer with these options."""
    return pack(AdamW(options))
