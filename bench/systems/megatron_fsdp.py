"""Megatron-FSDP's `fully_shard_model` and `fully_shard_optimizer`."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from bench.model import build, materialise
from bench.systems._base import CLIP_NORM, Setup, System, adamw_settings, compile_forward, decay_groups

FORMATS = {"default": None, "fp32": torch.float32, "bf16": torch.bfloat16}


class MegatronFSDP(System):
    """Units are the blocks, compiled; fp32 main weights.

    Options: double_buffer; grads, the format in which gradients are kept (default: that of the model, bf16); comm, the
    format in which they are reduced (default: as kept); gather_group, a communicator of its own for the gathers.
    """

    package = "megatron_fsdp"
    allowed = {
        "double_buffer": ("false", "true"),
        "grads": tuple(FORMATS),
        "comm": tuple(FORMATS),
        "gather_group": ("false", "true"),
    }

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        from megatron_fsdp import MixedPrecisionPolicy, fully_shard_model, fully_shard_optimizer

        model = materialise(build(setup.case), setup.seed, setup.device, setup.compute)
        block = type(model.blocks[0])
        if setup.compiled:
            compile_forward(model.blocks)
        self.model = fully_shard_model(
            model,
            fsdp_unit_modules=[block],
            zero_dp_strategy=setup.stage,
            device=setup.device,
            mixed_precision_policy=MixedPrecisionPolicy(
                main_params_dtype=torch.float32,
                main_grads_dtype=FORMATS[self.option("grads")],
                grad_comm_dtype=FORMATS[self.option("comm")],
            ),
            fsdp_double_buffer=self.option("double_buffer") == "true",
            fsdp_group_ag=dist.new_group() if self.option("gather_group") == "true" else None,
            # With several micro-batches the reductions of one overlap the next, as its documentation says.
            sync_model_each_microbatch=setup.case.accumulation == 1,
            preproc_state_dict_for_dcp_ckpt=False,
        )
        settings = adamw_settings(setup) | {"lr": 0.0}  # its first step, taken now to make the states, changes nothing
        optimizer = torch.optim.AdamW(decay_groups(self.model.parameters()), **settings)
        self.optimizer = fully_shard_optimizer(optimizer, preproc_state_dict_for_dcp_ckpt=False)
        self._forget_first_step()
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def _forget_first_step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.setup.lr
        for state in self.optimizer.state.values():
            state["step"].zero_()

    def micro_step(self, index: int, inputs: Tensor, targets: Tensor) -> Tensor:
        if self.setup.case.accumulation > 1:
            self.model.is_last_microbatch = self.is_last(index)
        loss = self.model(inputs, targets)
        (loss / self.setup.case.accumulation).backward()
        return loss.detach()

    def update(self) -> None:
        if not self.model.model_auto_sync:
            self.model.finish_grad_sync()  # the norm needs all gradients
        self._clip()
        self.optimizer.step(sync_grad_before_optimizer_step=False)
        self.optimizer.zero_grad()

    def _clip(self) -> None:
        """Its shards are uneven and may be empty, so the norm is taken of the local parts: one all-reduce, no wait."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        local = [g.to_local() if hasattr(g, "to_local") else g for g in grads]
        local = [g for g in local if g.numel()]
        square = torch.stack([norm.float() for norm in torch._foreach_norm(local)]).square().sum()
        dist.all_reduce(square)
        torch._foreach_mul_(local, (CLIP_NORM / (square.sqrt() + 1e-6)).clamp(max=1.0))
