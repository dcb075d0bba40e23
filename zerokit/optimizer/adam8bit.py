"""Adam with 8-bit moments: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022. Blocks have 64
elements and start at a parameter's first element, so that no shard cuts one."""

from __future__ import annotations

from dataclasses import dataclass, field

from zerokit.config.registry import register
from zerokit.optimizer._base import MomentOptions, State, matches
from zerokit.optimizer._codes import borders, code_values
from zerokit.optimizer.adamw import AdamW

BLOCK = 64
SIGNED, UNSIGNED = code_values(True), code_values(False)


@dataclass
class Adam8bitOptions(MomentOptions):
    """AdamW whose moments take 2.1 bytes per element instead of 8."""

    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay, per unit of learning rate, of parameters with two or more dimensions."""
    full_precision: list[str] = field(default_factory=lambda: ["*embed*", "*wte*", "*wpe*"])
    """Name patterns of parameters with fp32 moments; those with fewer than two dimensions have them in any case."""


class Adam8bit(AdamW):
    """The formula of AdamW. A moment is a code per element and the largest absolute value of each block.

    Of second moments only 0 itself becomes 0: a small one that did would make a huge step.
    """

    states = (
        State("code", "uint8", initial=float(SIGNED.index(0.0))),
        State("scale", per=BLOCK),
        State("code_sq", "uint8"),
        State("scale_sq", per=BLOCK),
    )
    tables = {
        "signed": SIGNED,
        "signed_borders": borders(SIGNED),
        "unsigned": UNSIGNED,
        "unsigned_borders": [0.0, *borders(UNSIGNED)[1:]],
    }

    def __init__(self, options: Adam8bitOptions):
        super().__init__(options)
        self._full = AdamW(options)

    def rule(self, name, ndim):
        """AdamW with fp32 moments for small and sensitive parameters."""
        return self._full if ndim < 2 or matches(name, self.options.full_precision) else self

    def update(self, p, g, state, s):
        """New values and moments of elements `p` with gradients `g`, (n,) fp32; scales are (n / 64,)."""
        code, scale, code_sq, scale_sq = state
        moments = (_decode(code, scale, s["signed"]), _decode(code_sq, scale_sq, s["unsigned"]))
        p, (mean, square) = super().update(p, g, moments, s)
        return p, (*_encode(mean, s["signed_borders"]), *_encode(square, s["unsigned_borders"]))


def _decode(code, scale, values):
    return (values[code.int()].view(-1, BLOCK) * scale[:, None]).view(-1)


def _encode(values, limits):
    import torch

    blocks = values.view(-1, BLOCK)
    scale = blocks.abs().amax(dim=1)
    relative = (blocks / scale.clamp(min=1e-38)[:, None]).view(-1)
    return torch.bucketize(relative, limits), scale


@register("optimizer", "adam8bit", Adam8bitOptions)
def build(options: Adam8bitOptions) -> Adam8bit:
    """The optimizer with these options."""
    return Adam8bit(options)
