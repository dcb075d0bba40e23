"""A program under plain PyTorch, in one process: a copy of the model per rank, whose gradients are averaged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from tests.fuzz.build import build
from tests.fuzz.program import Program
from tests.fuzz.script import Record, Script
from zerokit.train.assemble import wrap_blocks
from zerokit.train.initialize import typed

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SCALE = 64.0
"""Of losses in fp16."""
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.03, "momentum": 0.9}),
    # A large eps: Adam divides by the root of the second moment, so where a gradient is nothing but rounding, a small
    # one would make that rounding a whole step.
    "adamw": (torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-3, "betas": (0.9, 0.99)}),
}


class Copy:
    """One rank's model in the compute format, and the sums of its gradients in fp32."""

    def __init__(self, program: Program, rank: int):
        self.net = build(program, rank)
        self.first = {name: parameter.detach().clone() for name, parameter in self.net.named_parameters()}
        self.masters = self.first
        self.dtype = FORMATS[program.precision]
        _convert(self.net, self.dtype)
        for name, parameter in self.net.named_parameters():
            if not parameter.requires_grad:  # no master: it is kept in the compute format alone
                self.first[name] = parameter.detach().float()
        # Checkpointing is not what is compared: a body with buffers changes them again when it is recomputed.
        wrap_blocks(self.net, typed({"checkpointing": program.checkpointing}), torch.device("cpu"))
        self.scale = SCALE if program.precision == "fp16" else 1.0
        self.share = 1.0 / (program.accumulation * program.world * self.scale)
        self.given: dict[str, Tensor] = {}  # masters that the script has set, for the update: copies share them
        self.fresh: set[str] = set()  # parameters that it has replaced
        self.sums: dict[str, Tensor] = {}
        self.script = Script(program, self, rank)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

        args, kwargs = tree_map_only(Tensor, cast, (args, kwargs))
        return self.net(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        (loss * self.scale).backward()
        for name, parameter in self.net.named_parameters():
            if parameter.grad is not None:
                self.sums[name] = self.sums.get(name, 0) + parameter.grad.float() * self.share
                parameter.grad = None

    def weights(self) -> Record:
        kept = {name: p.dtype for name, p in self.net.named_parameters() if not p.requires_grad}
        return {name: m.detach().to(kept.get(name, m.dtype)).float().clone() for name, m in self.masters.items()}

    def load(self, weights: Record) -> None:
        with torch.no_grad():
            for name, parameter in self.net.named_parameters():
                parameter.copy_(weights[name])
                self.given[name] = weights[name] if parameter.requires_grad else parameter.detach().float()

    def replace(self, parent: nn.Module, name: str, new: nn.Module) -> None:
        setattr(parent, name, new)
        mine = {id(parameter) for parameter in new.parameters()}
        names = {name: value for name, value in self.net.named_parameters() if id(value) in mine}
        self.given |= {name: parameter.detach().clone() for name, parameter in names.items()}
        self.fresh = set(names)
        new.to(self.dtype)

    def take(self, masters: dict[str, Tensor]) -> None:
        """Begin the next step with these weights."""
        self.masters, self.sums = masters, {}
        with torch.no_grad():
            for name, parameter in self.net.named_parameters():
                parameter.copy_(masters[name])


def _convert(net: nn.Module, dtype: torch.dtype) -> None:
    """As `net.to(dtype)`, but for modules with running statistics, which stay in fp32."""
    for module in net.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None and tensor.is_floating_point():
                    tensor.data = tensor.data.to(dtype)


def run(program: Program) -> tuple[Record, list[Record]]:
    """The first weights, and what each rank's script should see. Raises what PyTorch raises."""
    copies = [Copy(program, rank) for rank in range(program.world)]
    kind, options = OPTIMIZERS[program.optimizer]
    masters = {name: nn.Parameter(value.clone()) for name, value in copies[0].first.items()}
    optimizer = kind(masters.values(), **options)
    for step in range(program.steps):
        for copy in copies:
            copy.script.prepare(step)
            copy.script.train(step)
        _begin_anew(masters, optimizer, copies[0])
        _average(masters, copies)
        if program.clip_norm is not None:
            nn.utils.clip_grad_norm_(masters.values(), program.clip_norm)
        optimizer.step()
        for copy in copies:
            copy.take(masters)
    return copies[0].first, [copy.script.finish() for copy in copies]


def _begin_anew(masters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, copy: Copy) -> None:
    with torch.no_grad():
        for name, value in copy.given.items():
            masters[name].copy_(value)
    for name in copy.fresh:
        optimizer.state.pop(masters[name], None)
    copy.given, copy.fresh = {}, set()


def _average(masters: dict[str, nn.Parameter], copies: list[Copy]) -> None:
    for name, master in masters.items():
        found = [copy.sums[name] for copy in copies if name in copy.sums]
        master.grad = sum(found) if found else None  # the optimizer leaves what no rank has used alone
