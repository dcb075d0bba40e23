"""Muon: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; weight decay and the size of
steps from Liu et al., "Muon is Scalable for LLM Training", 2025."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zerokit.config.registry import register
from zerokit.optimizer._base import Optimizer, Phase, SmallStates, State, check_range, matches
from zerokit.optimizer._packed import pack
from zerokit.optimizer.adamw import AdamW, AdamWOptions

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic polynomial that drives singular values towards 1 (Jordan et al.)."""


@dataclass
class MuonOptions(SmallStates):
    """Momentum made orthogonal for matrices; AdamW for vectors, embeddings and the head."""

    lr: float = 2e-3
    """Peak learning rate."""
    momentum: float = 0.95
    """Decay of the mean of gradients."""
    nesterov: bool = True
    """Whether the gradient is looked at one step ahead (Nesterov)."""
    ns_steps: int = 5
    """Newton-Schulz iterations."""
    ns_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Format in which matrices travel and are made orthogonal."""
    scale: Literal["match_adamw", "original"] = "match_adamw"
    """Size of a step: match_adamw makes it that of AdamW, 0.2 √max(rows, columns), so that one learning rate suits all
    parameters; original takes √max(1, rows / columns)."""
    weight_decay: float = 0.1
    """Decoupled weight decay, per unit of learning rate, of parameters with two or more dimensions."""
    adamw_for: list[str] = field(default_factory=lambda: ["*embed*", "*wte*", "*wpe*", "*head*", "*output*"])
    """Name patterns of matrices that AdamW updates."""
    adamw_lr: float | None = None
    """Peak learning rate of AdamW; null takes `lr`."""
    adamw_beta1: float = 0.9
    """Decay of AdamW's mean of gradients."""
    adamw_beta2: float = 0.95
    """Decay of AdamW's mean of squared gradients."""
    adamw_eps: float = 1e-8
    """Added to the root of AdamW's second moment."""

    def check(self) -> None:
        """AdamW's options are checked where they are used."""
        check_range(lr=self.lr, ns_steps=self.ns_steps)
        check_range(high=1.0, momentum=self.momentum)
        self.adamw()

    def adamw(self) -> AdamWOptions:
        """The options of AdamW."""
        lr = self.lr if self.adamw_lr is None else self.adamw_lr
        return AdamWOptions(lr=lr, beta1=self.adamw_beta1, beta2=self.adamw_beta2, eps=self.adamw_eps)


class Muon(Optimizer):
    """m ← μm + (1-μ)g; u = (1-μ)g + μm with Nesterov, else m; p ← p(1-lr·λ) - lr·size·orthogonal(u)."""

    states = (State("momentum", moment="mean"),)

    def __init__(self, options: MuonOptions):
        super().__init__(options)
        self.phases = (Phase("follow", whole="orthogonalise", wire=options.ns_dtype),)
        self._adamw = pack(AdamW(options.adamw()))

    @property
    def momentum(self) -> float:
        """Decay of the mean of gradients."""
        return self.options.momentum

    def rule(self, name, ndim):
        """AdamW for vectors and what `adamw_for` names."""
        return self._adamw if ndim < 2 or matches(name, self.options.adamw_for) else self

    def scalars(self, now):
        """Factor of the weights, learning rate and momentum."""
        return {"keep": 1 - now.lr * now.weight_decay, "lr": now.lr, "follow": 1 - now.momentum}

    def follow(self, p, g, state, s):
        """New momenta, and the direction that is made orthogonal."""
        mean = state[0].lerp(g, s["follow"])
        return (mean,), {"whole": mean.lerp(g, s["follow"]) if self.options.nesterov else mean}

    def orthogonalise(self, matrix):
        """A matrix (rows, columns) with the same singular vectors and singular values near 1."""
        tall = matrix.shape[0] > matrix.shape[1]
        x = matrix.T if tall else matrix
        x = x / x.norm().clamp(min=1e-7)
        a, b, c = COEFFICIENTS
        for _ in range(self.options.ns_steps):
            gram = x @ x.T
            x = x.addmm(gram.addmm(gram, gram, beta=b, alpha=c), x, beta=a)
        return x.T if tall else x

    def update(self, p, g, state, s):
        """New values of elements `p`; `follow` has left their momenta."""
        if self.options.scale == "original":
            size = (s["rows"] / s["columns"]).clamp(min=1.0).sqrt()
        else:
            size = 0.2 * s["rows"].maximum(s["columns"]).sqrt()
        return p * s["keep"] - s["lr"] * size * s["whole"].float(), state


@register("optimizer", "muon", MuonOptions)
def build(options: MuonOptions) -> Optimizer:
    """The optimizer with these options."""
    return pack(Muon(options))
