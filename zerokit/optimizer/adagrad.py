"""Adagrad: Duchi, Hazan and Singer, "Adaptive Subgradient Methods", 2011, in the form of `torch.optim.Adagrad`."""

from __future__ import annotations

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.optimizer._base import Optimizer, OptimizerOptions, State, check_range


@dataclass
class AdagradOptions(OptimizerOptions):
    """Steps divided by the root of the sum of all squared gradients."""

    lr: float = 1e-2
    """Peak learning rate."""
    lr_decay: float = 0.0
    """The learning rate is divided by 1 + (step - 1) * lr_decay."""
    eps: float = 1e-10
    """Added to the root of the sum."""
    initial: float = 0.0
    """First value of the sum."""
    weight_decay: float = 0.0
    """L2 penalty, added to the gradient, of parameters with two or more dimensions."""

    def check(self) -> None:
        """Nothing is negative."""
        check_range(lr=self.lr, lr_decay=self.lr_decay, eps=self.eps, initial=self.initial)


class Adagrad(Optimizer):
    """g ← g + λp; s ← s + g²; p ← p - lr·g / (√s + ε)."""

    def __init__(self, options: AdagradOptions):
        super().__init__(options)
        self.states = (State("sum", initial=options.initial),)

    def scalars(self, now):
        """Penalty and step size."""
        decayed = now.lr / (1 + (now.step - 1) * self.options.lr_decay)
        return {"penalty": now.weight_decay, "step_size": decayed}

    def update(self, p, g, state, s):
        """New values and sums of elements `p` with gradients `g`, all (n,) fp32."""
        g = g + s["penalty"] * p
        total = state[0] + g * g
        return p - s["step_size"] * g / (total.sqrt() + self.options.eps), (total,)


@register("optimizer", "adagrad", AdagradOptions)
def build(options: AdagradOptions) -> Adagrad:
    """The optimizer with these options."""
    return Adagrad(options)
