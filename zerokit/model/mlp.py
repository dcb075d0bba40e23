"""Multi-layer perceptron; without hidden layers it is one `nn.Linear`."""

from dataclasses import dataclass, field
from typing import Literal

from zerokit.config.registry import register
from zerokit.model._checks import check_dropout


@dataclass
class MLPOptions:
    in_features: int | None = None
    """Length of an input vector; null: that of the data."""
    hidden: list[int] = field(default_factory=list)
    """Widths of the hidden layers; [] makes a linear model."""
    out_features: int | None = None
    """Length of an output vector; null: that of the data."""
    activation: Literal["relu", "gelu", "tanh"] = "relu"
    """Non-linearity after every hidden layer."""
    bias: bool = True
    """Biases in all layers."""
    dropout: float = 0.0
    """Probability, after every activation."""

    def __post_init__(self) -> None:
        if min([1, *self.hidden]) < 1:
            raise ValueError(f"hidden: expected widths of at least 1; got {self.hidden}.")
        check_dropout(self.dropout)


register("model", "mlp", MLPOptions, "zerokit.model._mlp:build")
