"""Stochastic gradient descent with momentum: Sutskever et al., "On the importance of initialization and momentum",
2013, in the form of `torch.optim.SGD`."""

from __future__ import annotations

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.optimizer._base import DecayOptions, Optimizer, check_range


@dataclass
class SGDOptions(DecayOptions):
    """Gradient descent, with momentum if it is above 0."""

    lr: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """Factor of the velocity from step to step; 0 keeps no velocity."""
    nesterov: bool = False
    """Whether the gradient is looked at one step ahead (Nesterov)."""
    weight_decay: float = 0.0
    """L2 penalty, added to the gradient, of parameters with two or more dimensions."""

    def __post_init__(self) -> None:
        check_range(lr=self.lr, weight_decay=self.weight_decay)
        check_range(high=1.0, momentum=self.momentum)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0.")


class SGD(Optimizer):
    """g ← g + λp; u ← μu + g; p ← p - lr·u, or p - lr·(g + μu) with Nesterov."""

    @property
    def state_names(self) -> tuple[str, ...]:
        """A velocity where there is momentum."""
        return ("velocity",) if self.options.momentum else ()

    def scalars(self, lr, step, weight_decay):
        """Learning rate and penalty (0-dim float64)."""
        return {"lr": lr, "penalty": lr * 0 + weight_decay}

    def update(self, p, g, state, s):
        """New values and velocity of elements `p` with gradients `g`, all (n,) fp32."""
        o = self.options
        g = g + s["penalty"] * p
        if not state:
            return p - s["lr"] * g, ()
        velocity = state[0] * o.momentum + g
        return p - s["lr"] * (g + velocity * o.momentum if o.nesterov else velocity), (velocity,)


@register("optimizer", "sgd", SGDOptions)
def build(options: SGDOptions) -> SGD:
    """The optimizer with these options."""
    return SGD(options)
