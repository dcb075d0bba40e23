"""Keep activations in the host's memory."""

from dataclasses import dataclass

from zerokit.config.registry import register


@dataclass
class CPUOptions:
    min_bytes: int = 2**20
    """Smaller activations stay on the device, in bytes; their copies would cost more than their room."""

    def __post_init__(self) -> None:
        if self.min_bytes < 0:
            raise ValueError(f"min_bytes: expected at least 0; got {self.min_bytes}.")


register("checkpointing", "cpu", CPUOptions, "zerokit.checkpointing._offload:build")
