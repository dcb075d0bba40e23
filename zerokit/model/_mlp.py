"""Multi-layer perceptron of torch's own layers."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from zerokit.config.data_info import DataInfo
from zerokit.config.errors import ConfigError

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class MLP(nn.Module):
    """Vectors (B, sizes[0]) → (B, sizes[-1]) in the weights' dtype; an activation after every layer but the last."""

    shardwise_init = True

    def __init__(self, sizes: list[int], activation: type[nn.Module], bias: bool, dropout: float) -> None:
        super().__init__()
        *hidden, last = (nn.Linear(n, m, bias) for n, m in pairwise(sizes))
        self.blocks = nn.ModuleList(nn.Sequential(layer, activation(), nn.Dropout(dropout)) for layer in hidden)
        self.out = last
        # Counted now: the engine cuts the parameters later.
        self._multiplied = sum(n * m for n, m in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.out.weight.dtype)
        for block in self.blocks:
            x = block(x)
        return self.out(x)

    def units(self) -> list[nn.Module]:
        """Modules to gather one by one: the layers."""
        return [*self.blocks, self.out]

    def flops_per_token(self, seq_len: int | None = None) -> float:
        """Forward and backward of one sample: 6 per weight. `seq_len` has no meaning here."""
        return 6.0 * self._multiplied


def build(options, data: DataInfo) -> MLP:
    """MLP between the data's sizes, or between those of the options."""
    if data.task == "tokens":
        raise ConfigError(
            "model=mlp maps vectors to vectors, the data are tokens; take data=synthetic data.task=regression."
        )
    for key in ("in_features", "out_features"):
        size, of_data = getattr(options, key), getattr(data, key)
        if size not in (None, of_data):
            raise ConfigError(f"model.{key}: the data have {of_data}; got {size}. Leave it out or change the data.")
    sizes = [data.in_features, *options.hidden, data.out_features]
    return MLP(sizes, ACTIVATIONS[options.activation], options.bias, options.dropout)
