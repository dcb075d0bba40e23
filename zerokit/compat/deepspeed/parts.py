"""What DeepSpeed's engine is, as its optimizer, monitor and saved states see it: they stand below it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from zerokit.zero.engine import Engine


class EngineParts(Protocol):
    """`zerokit.compat.deepspeed.engine.DeepSpeedEngine`."""

    engine: Engine
    module: nn.Module
    optimizer: Any
    lr_scheduler: Any
    global_steps: int
    global_samples: int
    micro_steps: int

    def __getattr__(self, name: str) -> Any:
        """Anything else that it has."""
