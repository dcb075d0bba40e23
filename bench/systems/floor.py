"""The compute floor: what is left of a step without sharding, communication and optimizer."""

from __future__ import annotations

from torch import Tensor

from bench.model import build, materialise
from bench.systems._base import Setup, System, compile_forward


class Floor(System):
    """Forward and backward of compiled blocks with whole random weights in the compute format."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.model = materialise(build(setup.case), setup.seed, setup.device, setup.compute)
        if setup.compiled:
            compile_forward(self.model.blocks)

    def micro_step(self, index: int, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = self.model(inputs, targets)
        loss.backward()
        self.model.zero_grad(set_to_none=True)
        return loss.detach()

    def update(self) -> None:
        return None
