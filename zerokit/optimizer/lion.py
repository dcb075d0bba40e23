"""Lion: Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.optimizer._base import Optimizer, SmallStates, State, check_range
from zerokit.optimizer._packed import pack


@dataclass
class LionOptions(SmallStates):
    """Steps of one size, in the direction of a sign; wants a learning rate 3 to 10 times smaller than AdamW."""

    lr: float = 1e-4
    """Peak learning rate."""
    beta1: float = 0.9
    """Share of the momentum in the direction of the step."""
    beta2: float = 0.99
    """Decay of the momentum."""
    weight_decay: float = 0.0
    """Decoupled weight decay, per unit of learning rate, of parameters with two or more dimensions."""

    def check(self) -> None:
        """Betas lie in [0, 1)."""
        check_range(lr=self.lr)
        check_range(high=1.0, beta1=self.beta1, beta2=self.beta2)


class Lion(Optimizer):
    """p ← p(1-lr·λ) - lr·sign(β₁m + (1-β₁)g); m ← β₂m + (1-β₂)g."""

    states = (State("exp_avg", moment="mean"),)

    def scalars(self, now):
        """Factor of the weights, step size, and share of the gradient in the direction."""
        return {"keep": 1 - now.lr * now.weight_decay, "lr": now.lr, "follow": 1 - now.momentum}

    def update(self, p, g, state, s):
        """New values and momenta of elements `p` with gradients `g`, all (n,) fp32."""
        (mean,) = state
        direction = mean.lerp(g, s["follow"]).sign()
        return p * s["keep"] - s["lr"] * direction, (mean.lerp(g, 1 - self.options.beta2),)


@register("optimizer", "lion", LionOptions)
def build(options: LionOptions) -> Optimizer:
    """The optimizer with these options."""
    return pack(Lion(options))
