"""1-bit Adam: Tang et al., "1-bit Adam: Communication Efficient Large-Scale Training with Adam's Convergence Speed",
ICML 2021, algorithm 1; default of `freeze_step` from DeepSpeed's OneBitAdam."""

from __future__ import annotations

from dataclasses import dataclass

from zerokit.config.registry import register
from zerokit.optimizer._base import MomentOptions, State, check_range
from zerokit.optimizer.adamw import AdamW


@dataclass
class OneBitAdamOptions(MomentOptions):
    """AdamW whose second moment is frozen after a warm-up; from then on ranks exchange one bit per parameter. Stages 0
    and 1."""

    stages = (
        0,
        1,
    )  # where every rank has its whole gradient; `zero.update.compress` refuses the others

    lr: float = 1e-3
    """Peak learning rate."""
    freeze_step: int = 100_000
    """Steps of exact AdamW, skipped ones included, after which the second moment is frozen and communication is
    compressed; DeepSpeed's tutorial advises 15 to 25 % of all steps. A shorter training never compresses."""
    weight_decay: float = 0.0
    """Decoupled weight decay, per unit of learning rate, of parameters with two or more dimensions."""

    def check(self) -> None:
        """There may be no warm-up, but then nothing is learned."""
        super().check()
        check_range(1, freeze_step=self.freeze_step)


class OneBitAdam(AdamW):
    """Warm-up: AdamW. Then v stays, m is the mean of the ranks' β₁m + (1-β₁)gᵢ, each compressed to signs and scales
    with error feedback, and p ← p(1 - lr·λ) - lr·m̂ / (√v̂ + ε).

    Beyond the paper: both moments keep Adam's bias corrections, that of v of the last step that changed it, so that
    steps do not jump at the change. Where v is 0 no gradient was seen in the warm-up, and a sign of noise over ε would
    be no step but an explosion: such an element stays as it is (but for decay).
    """

    states = (
        State("exp_avg", travels=True),
        State("exp_avg_sq"),
        State("worker_error", placement="partial", travels=True),
        State("server_error", placement="shard", travels=True),
    )
    kept = {"square_steps": 0.0}

    @property
    def exact_steps(self) -> int:
        """Steps after which communication is compressed."""
        return self.options.freeze_step

    def scalars(self, now):
        """Those of AdamW; the second bias correction is that of the steps that the second moment has seen."""
        seen = self.keep(now)["square_steps"]
        return super().scalars(now) | {"root_correction": (1 - self.options.beta2**seen).sqrt()}

    def keep(self, now):
        """How many steps the second moment has seen."""
        return {"square_steps": now.step if now.exact else now.kept["square_steps"]}

    def momentum_of(self, mean, g, s):
        """A rank's own momentum, of the mean of all (n,) and of its own gradient (n,)."""
        return mean.lerp(g, s["follow"])

    def update_compressed(self, p, state, s):
        """New values of elements `p` (n,), whose mean of gradients has been exchanged."""
        mean, square = state
        step = s["step_size"] * mean / (square.sqrt() / s["root_correction"] + self.options.eps)
        return p * s["keep"] - step.where(square > 0, 0.0), state


@register("optimizer", "onebit_adam", OneBitAdamOptions)
def build(options: OneBitAdamOptions) -> OneBitAdam:
    """The optimizer with these options."""
    return OneBitAdam(options)
