"""PyTorch's `fully_shard`, applied as torchtitan applies it to its Llama."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from bench.model import build, fill_shards
from bench.systems._base import CLIP_NORM, Setup, System, adamw_settings, decay_groups
from zerokit.config import registry
from zerokit.config.registry import Choice

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class FSDP2(System):
    """Units: embedding, each block, norm with head, root; fp32 shards, gathered in the compute format.

    Options: reduce, the format of the reduce-scatter; reshard, whether weights are freed between forward and backward;
    sync, whether gradients are reduced with the last micro-batch only or with each (slower, needs less memory);
    checkpointing, of the blocks' activations: the same wrappers as zerokit's; offload, all shards to pinned memory of
    the host, where torch's fused AdamW updates them.
    """

    allowed = {
        "reduce": ("fp32", "bf16"),
        "reshard": ("true", "false"),
        "sync": ("last", "each"),
        "checkpointing": ("none", "selective", "full"),
        "offload": ("false", "true"),
    }

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.model = build(setup.case)
        for index, block in enumerate(self.model.blocks):
            checkpointing = Choice(self.option("checkpointing"), None)
            block.forward = registry.build("checkpointing", checkpointing).wrap(block.forward, index)
            if setup.compiled:
                block.compile(fullgraph=True)
        self.offloaded = self.option("offload") == "true"
        self._shard(self.model)
        fill_shards(self.model, setup.seed, torch.device("cpu") if self.offloaded else setup.device)
        for module in self.model.modules():  # buffers are not offloaded
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(setup.device)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(decay_groups(self.parameters), **adamw_settings(setup))

    def _shard(self, model: nn.Module) -> None:
        half = self.setup.precision == "bf16"
        # Inputs are not cast: the rotary table stays fp32 for every system, and hidden states are bf16 from the start.
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if half else None,
            reduce_dtype=FORMATS[self.option("reduce")] if half else None,
            cast_forward_inputs=False,
        )
        mesh = init_device_mesh(self.setup.device.type, (self.setup.world,))
        reshard = self.option("reshard") == "true"
        offload = CPUOffloadPolicy() if self.offloaded else OffloadPolicy()
        common = {"mesh": mesh, "mp_policy": policy, "offload_policy": offload}
        fully_shard(model.embedding, **common, reshard_after_forward=reshard)
        for block in model.blocks:
            fully_shard(block, **common, reshard_after_forward=reshard)
        # Backward needs these first, so that they stay gathered.
        fully_shard([model.norm, model.head], **common, reshard_after_forward=False)
        fully_shard(model, **common)

    def micro_step(self, index: int, inputs: Tensor, targets: Tensor) -> Tensor:
        last = self.is_last(index)
        if self.setup.case.accumulation > 1:
            self.model.set_requires_gradient_sync(last or self.option("sync") == "each")
            self.model.set_is_last_backward(last)
        loss = self.model(inputs, targets)
        (loss / self.setup.case.accumulation).backward()
        return loss.detach()

    def update(self) -> None:
        gradients = [p.grad for p in self.parameters]
        if self.offloaded:  # a process group of NCCL sums no tensors of the host
            squares = torch.nn.utils.get_total_norm([g.to_local() for g in gradients], foreach=True).square()
            squares = squares.to(self.setup.device)
            torch.distributed.all_reduce(squares)
            norm = squares.sqrt().cpu()
        else:
            norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        torch.nn.utils.clip_grads_with_norm_(self.parameters, CLIP_NORM, norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
