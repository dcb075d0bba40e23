"""Stochastic gradient descent with momentum: Sutskever et al., "On the importance of initialization and momentum",
2013, in the form of `torch.optim.SGD`."""

from __future__ import annotations

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.optimizer._base import Optimizer, SmallStates, State, check_range
from zerokit.optimizer._packed import pack


@dataclass
class SGDOptions(SmallStates):
    """Gradient descent, with momentum if it is above 0."""

    lr: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """Factor of the velocity from step to step; 0 keeps no velocity."""
    nesterov: bool = False
    """Whether the gradient is looked at one step ahead (Nesterov)."""
    weight_decay: float = 0.0
    """L2 penalty, added to the gradient, of parameters with two or more dimensions."""

    def check(self) -> None:
        """Nesterov needs a velocity."""
        check_range(lr=self.lr)
        check_range(high=1.0, momentum=self.momentum)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0.")


class SGD(Optimizer):
    """g ← g + λp; u ← μu + g; p ← p - lr·u, or p - lr·(g + μu) with Nesterov."""

    def __init__(self, options: SGDOptions):
        super().__init__(options)
        self.states = (State("velocity", moment="mean"),) if options.momentum else ()

    @property
    def momentum(self) -> float | None:
        """None where there is no velocity."""
        return self.options.momentum or None

    def scalars(self, now):
        """Learning rate, penalty and momentum."""
        momentum = {} if now.momentum is None else {"momentum": now.momentum}
        return {"lr": now.lr, "penalty": now.weight_decay, **momentum}

    def update(self, p, g, state, s):
        """New values and velocity of elements `p` with gradients `g`, all (n,) fp32."""
        g = g + s["penalty"] * p
        if not state:
            return p - s["lr"] * g, ()
        velocity = state[0] * s["momentum"] + g
        ahead = g + velocity * s["momentum"] if self.options.nesterov else velocity
        return p - s["lr"] * ahead, (velocity,)


@register("optimizer", "sgd", SGDOptions)
def build(options: SGDOptions) -> Optimizer:
    """The optimizer with these options."""
    return pack(SGD(options))
