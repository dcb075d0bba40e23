"""What every system shares: its interface, the optimizer's settings, the loop over micro-batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.cases import Case

CLIP_NORM = 1.0
BETAS = (0.9, 0.95)
EPS = 1e-8
WEIGHT_DECAY = 0.1


@dataclass(frozen=True)
class Setup:
    """Everything that a system is told."""

    case: Case
    rank: int
    world: int
    device: torch.device
    stage: int | None = None
    """The number in the system's name, as in zerokit-3."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Those of the system string; a missing one takes the first of the values that the system allows."""
    precision: str = "bf16"
    """"bf16": bf16 compute with fp32 master weights; "fp32": everything in fp32."""
    seed: int = 0
    lr: float = 1e-4

    @property
    def compute(self) -> torch.dtype:
        """Format of the compute weights and activations."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def compiled(self) -> bool:
        """Whether blocks are compiled: as the option `compile` says, else on GPUs only."""
        default = "true" if self.device.type == "cuda" else "false"
        return self.options.get("compile", default) == "true"


class System(ABC):
    """One way to train the model. Made once per process; `step` is what is timed."""

    package: ClassVar[str | None] = None
    """Module that must be installed, if it is not torch."""
    allowed: ClassVar[Mapping[str, tuple[str, ...]] | None] = {}
    """Options with their values, the default first; None takes any option."""

    recorded_at: int | None = None
    """The step, from 0, that is recorded for replays, if any: they use the memory that it takes."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def option(self, name: str) -> str:
        """The value of an option, or its default."""
        return self.setup.options.get(name, self.allowed[name][0])

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One optimizer step on (accumulation, micro, seq_len) tokens; this rank's mean loss (0-dim, on the device)."""
        losses = [self.micro_step(i, x, y) for i, (x, y) in enumerate(zip(inputs, targets, strict=True))]
        self.update()
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def is_last(self, index: int) -> bool:
        """Whether micro-batch `index` is the last of its step."""
        return index == self.setup.case.accumulation - 1

    @abstractmethod
    def micro_step(self, index: int, inputs: Tensor, targets: Tensor) -> Tensor:
        """Forward and backward of one micro-batch (micro, seq_len); its loss, detached."""

    @abstractmethod
    def update(self) -> None:
        """Clip the gradients and apply the optimizer."""

    def unseen_bytes(self) -> int:
        """Device memory that the system holds outside PyTorch's allocator; counted as allocated."""
        return 0

    def close(self) -> None:
        """Called once after the last step."""
        return None


def compile_forward(blocks: Iterable[nn.Module]) -> None:
    """Compile the forward of each block, so that hooks on the block stay outside the graph."""
    for block in blocks:
        block.forward = torch.compile(block.forward)


def decay_groups(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Groups for an optimizer: matrices decay, vectors do not."""
    parameters = list(parameters)
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def adamw_settings(setup: Setup) -> dict[str, Any]:
    """Arguments of torch's AdamW besides the parameters."""
    return {"lr": setup.lr, "betas": BETAS, "eps": EPS, "fused": True}
