"""LoRA (Hu et al. 2021, arXiv 2106.09685): products of two thin matrices beside the linear layers of a frozen model."""

from dataclasses import dataclass, field

from zerokit.config.registry import register


@dataclass
class LoraOptions:
    r: int = 16
    """Rank of the products."""
    alpha: float = 32
    """The products are multiplied by alpha / r."""
    dropout: float = 0.0
    """Probability, on what goes into the products."""
    targets: list[str] = field(default_factory=lambda: ["all-linear"])
    """Layers that get one, by the last part of their names such as q_proj; all-linear: every linear layer but the
    output layer."""

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"r: expected at least 1; got {self.r}.")
        if not self.alpha > 0:
            raise ValueError(f"alpha: expected more than 0; got {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected at least 0 and less than 1; got {self.dropout}.")
        if not self.targets:
            raise ValueError("targets: expected names of layers, or [all-linear]; got none.")


register("adapter", "lora", LoraOptions, "zerokit.adapter._lora:build")
