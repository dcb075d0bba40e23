"""Schedule-Free AdamW: Defazio et al., "The Road Less Scheduled", 2024, algorithm 1. Wants a constant learning rate
after a warm-up."""

from __future__ import annotations

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.optimizer._base import MomentOptions, Optimizer, SmallStates, State
from zerokit.optimizer._packed import pack


@dataclass
class ScheduleFreeOptions(MomentOptions, SmallStates):
    """AdamW that averages weights instead of decaying its learning rate; choose scheduler=constant with a warm-up."""

    lr: float = 2.5e-3
    """Peak learning rate."""
    beta1: float = 0.9
    """Share of the average in the weights that gradients are taken at."""
    weight_decay: float = 0.0
    """Decoupled weight decay, per unit of learning rate, of parameters with two or more dimensions."""

    def check(self) -> None:
        """Without a share of the average it could not be found again."""
        super().check()
        if not self.beta1 > 0:
            raise ValueError(f"beta1 must be above 0, got {self.beta1:g}.")


class ScheduleFreeAdamW(Optimizer):
    """γ = lr √(1-β₂ᵗ); d = γ(g / (√v + ε) + λy); z ← z - d; c = γ²/Σγ²; x ← (1-c)x + cz; y ← (1-β₁)z + β₁x.

    The weights in training are y, for which x need not be kept; evaluation and export take x.
    """

    momentum = None
    states = (State("base", initial="parameter"), State("exp_avg_sq", moment="square"))
    kept = {"weight_sum": 0.0}
    evaluates = ("base",)

    def _gamma(self, now):
        return now.lr * (1 - self.options.beta2**now.step).sqrt()

    def keep(self, now):
        """The sum of all squared learning rates."""
        return {"weight_sum": now.kept["weight_sum"] + self._gamma(now) ** 2}

    def scalars(self, now):
        """Learning rate, decay, weight of the newest point in the average, and what the step counts in y."""
        gamma = self._gamma(now)
        share = gamma**2 / (now.kept["weight_sum"] + gamma**2).clamp(min=1e-300)
        return {
            "lr": gamma,
            "decay": now.weight_decay,
            "share": share,
            "now": 1 - self.options.beta1 * (1 - share),
        }

    def update(self, p, g, state, s):
        """New points y and z, and second moments, of elements at y = `p` with gradients `g`, all (n,) fp32."""
        base, square = state
        square = square * self.options.beta2 + g * g * (1 - self.options.beta2)
        step = s["lr"] * (g / (square.sqrt() + self.options.eps) + s["decay"] * p)
        return p.lerp(base, s["share"]) - s["now"] * step, (base - step, square)

    def evaluate(self, p, state):
        """The average x of elements at y = `p`."""
        return p.lerp(state[0], 1 - 1 / self.options.beta1)


@register("optimizer", "schedule_free_adamw", ScheduleFreeOptions)
def build(options: ScheduleFreeOptions) -> Optimizer:
    """The optimizer with these options."""
    return pack(ScheduleFreeAdamW(options))
