"""DeepSpeed's engine, stages 1 to 3."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.model import build, materialise
from bench.systems._base import CLIP_NORM, Setup, System, adamw_settings, compile_forward, decay_groups


class DeepSpeed(System):
    """Defaults of DeepSpeed, with communication overlapped at every stage.

    Option compile: blocks (default of stages 1 and 2), none (default of stage 3, whose hooks sit on every layer inside
    a block), engine (`engine.compile()`), deepcompile. Option optimizer: torch's fused AdamW, or DeepSpeed's FusedAdam,
    which builds an extension at its first use.
    """

    package = "deepspeed"
    allowed = {
        "compile": ("auto", "blocks", "none", "engine", "deepcompile"),
        "optimizer": ("torch", "fused_adam"),
        "overlap": ("true", "false"),
    }

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        import deepspeed

        model = materialise(build(setup.case), setup.seed, setup.device, setup.compute)
        compiled = self._compile()
        if compiled == "blocks":
            compile_forward(model.blocks)
        optimizer = self._make_optimizer(decay_groups(model.parameters()))
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=self._config(compiled == "deepcompile"), dist_init_required=False
        )
        if compiled in ("engine", "deepcompile"):
            self.engine.compile()

    def _compile(self) -> str:
        choice = self.option("compile")
        if choice != "auto":
            return choice
        return "blocks" if self.setup.stage < 3 and self.setup.device.type == "cuda" else "none"

    def _make_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        settings = adamw_settings(self.setup)
        if self.option("optimizer") == "torch":
            return torch.optim.AdamW(groups, **settings)
        from deepspeed.ops.adam import FusedAdam

        settings.pop("fused")
        return FusedAdam(groups, adam_w_mode=True, **settings)

    def _config(self, deepcompile: bool) -> dict[str, Any]:
        case = self.setup.case
        config = {
            "train_micro_batch_size_per_gpu": case.micro,
            "gradient_accumulation_steps": case.accumulation,
            "gradient_clipping": CLIP_NORM,
            "bf16": {"enabled": self.setup.precision == "bf16"},
            "zero_optimization": {
                "stage": self.setup.stage,
                "overlap_comm": self.option("overlap") == "true",
                "contiguous_gradients": True,
            },
            "steps_per_print": 1_000_000_000,
        }
        return config | ({"compile": {"deepcompile": True}} if deepcompile else {})

    def micro_step(self, index: int, inputs: Tensor, targets: Tensor) -> Tensor:
        loss = self.engine(inputs, targets)
        self.engine.backward(loss)
        if not self.is_last(index):
            self.engine.step()  # it counts micro-batches and does nothing else
        return loss.detach()

    def update(self) -> None:
        self.engine.step()
