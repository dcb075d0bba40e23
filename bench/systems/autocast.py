"""PyTorch without sharding: fp32 weights under bf16 autocast, on one GPU (`plain`) or with DistributedDataParallel."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.model import build, materialise
from bench.systems._base import CLIP_NORM, Setup, System, adamw_settings, compile_forward, decay_groups
from zerokit.model._linear_cross_entropy import linear_cross_entropy


class Plain(System):
    """One GPU: compiled blocks, fused AdamW."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._check_world()
        self.model = materialise(build(setup.case), setup.seed, setup.device, torch.float32)
        self._half = setup.precision == "bf16"
        if self._half:
            half_precision_head(self.model.head)
        if setup.compiled:
            compile_forward(self.model.blocks)
        self.parameters = list(self.model.parameters())
        self._wrap()
        self.optimizer = self._make_optimizer()

    def _check_world(self) -> None:
        if self.setup.world != 1:
            raise ValueError(f"plain runs on one GPU, the case on {self.setup.world}; use --nproc 1 or a one-gpu case.")

    def _wrap(self) -> None:
        return None

    def _make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(decay_groups(self.parameters), **adamw_settings(self.setup))

    def _synchronised(self, index: int):
        return nullcontext()

    def micro_step(self, index: int, inputs: Tensor, targets: Tensor) -> Tensor:
        with self._synchronised(index):
            with torch.autocast(self.setup.device.type, torch.bfloat16, enabled=self._half):
                loss = self.model(inputs, targets)
            (loss / self.setup.case.accumulation).backward()
        return loss.detach()

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class DDP(Plain):
    """All-reduced gradients; option optimizer=zero shards the optimizer's states with ZeroRedundancyOptimizer."""

    allowed = {"optimizer": ("adamw", "zero"), "bucket_cap_mb": ()}

    def _check_world(self) -> None:
        return None

    def _wrap(self) -> None:
        self.model = DistributedDataParallel(
            self.model,
            device_ids=[self.setup.device] if self.setup.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            bucket_cap_mb=float(self.setup.options.get("bucket_cap_mb", 25)),
        )

    def _make_optimizer(self) -> torch.optim.Optimizer:
        if self.option("optimizer") == "adamw":
            return super()._make_optimizer()
        from torch.distributed.optim import ZeroRedundancyOptimizer

        settings = adamw_settings(self.setup)
        return ZeroRedundancyOptimizer(decay_groups(self.parameters), torch.optim.AdamW, **settings)

    def _synchronised(self, index: int):
        return nullcontext() if self.is_last(index) else self.model.no_sync()


def half_precision_head(head: nn.Module) -> None:
    """Do for the fused head and loss what autocast does for other matrix products: cast operands, products in bf16.

    Autocast does not look into its in-place products, which would run in fp32.
    """

    def forward(hidden: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.flatten(0, -2).bfloat16()
            return linear_cross_entropy(hidden, head.weight.bfloat16(), targets.flatten(), head.chunk)

    head.forward = forward
