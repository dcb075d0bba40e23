"""Any elementwise optimizer of `torch.optim`, by the name of its class: it runs on pieces of the flat shards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zerokit.config.registry import register
from zerokit.optimizer._base import OptimizerOptions, check_range


@dataclass
class TorchOptions(OptimizerOptions):
    """A class of torch.optim. zerokit's own optimizers are faster: on a GPU each is one kernel."""

    type: str = "RMSprop"
    """Name of the class."""
    lr: float = 1e-3
    """Peak learning rate."""
    params: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class, but for the learning rate and the weight decay."""
    weight_decay: float = 0.0
    """Weight decay, in the way of the class, of parameters with two or more dimensions."""

    def check(self) -> None:
        """Names are checked when the optimizer is built, which imports torch."""
        check_range(lr=self.lr)


@register("optimizer", "torch", TorchOptions)
def build(options: TorchOptions) -> Any:
    """The optimizer with these options.

    Raises:
        ConfigError: there is no such class or argument, or it is not elementwise.
    """
    from zerokit.optimizer._torch import TorchOptim

    return TorchOptim(options)
