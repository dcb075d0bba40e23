"""The training script of a program: the same code for an engine and for plain PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tests.fuzz.build import Net, tensors
from tests.fuzz.modules import BATCH, DIM, TIME
from tests.fuzz.program import Program

Record = dict[str, Tensor]
"""What a rank's script saw, by name: losses, gradients of inputs, weights read in between; last weights and buffers."""


class Side(Protocol):
    """zerokit or PyTorch."""

    net: Net

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output."""

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients."""

    def weights(self) -> Record:
        """Every parameter in fp32."""

    def load(self, weights: Record) -> None:
        """Give every parameter another value."""

    def replace(self, parent: nn.Module, name: str, new: nn.Module) -> None:
        """Give a module another child."""


def _draw(program: Program, *key: int) -> torch.Generator:
    seed = program.seed
    for number in key:
        seed = seed * 31 + number + 1
    return torch.Generator().manual_seed(seed % 2**31)


class Script:
    """One rank's script. After `prepare` and `train` of each step the side updates the weights."""

    def __init__(self, program: Program, side: Side, rank: int):
        self.program, self.side, self.rank, self.record = program, side, rank, {}
        self.has = program.extras

    # -- between steps -----------------------------------------------------------------------------------------------

    def prepare(self, step: int) -> None:
        """What a script does before a step."""
        net = self.side.net
        net.context.step = step
        torch.manual_seed(self.program.seed + step)  # of dropout in `encode`
        if "eval_between" in self.has:
            self._evaluate(step, torch.no_grad)
        if "inference_between" in self.has:
            self._evaluate(step, torch.inference_mode)
        with torch.no_grad():
            if "encode" in self.has:
                x = self._inputs(step, 7)["x"].to(net.head.weight.dtype)
                self._note(f"encode {step}", net.encode(x))
            if "read_weights" in self.has and net.square() is not None:
                self._note(f"reading {step}", net.square())
            if "deep_copy" in self.has and net.square() is not None:
                self._note(f"copy {step}", copy.deepcopy(net).square())
        if "whole_weights" in self.has:
            self.record.update({f"{name} before {step}": value for name, value in self.side.weights().items()})
        if "unfreeze" in self.has:
            first = net.members[0]
            first.requires_grad_(not next(first.parameters()).requires_grad)
        if "loaded" in self.has and step == 1:
            self.side.load(self._other_weights())
        if "replaced" in self.has and step == 1 and "tied_blocks" not in self.has:
            for parent, name, child in net.linears():
                self.side.replace(parent, name, nn.Linear(child.in_features, child.out_features))

    def _other_weights(self) -> Record:
        draw = _draw(self.program, 77)
        shapes = {name: value.shape for name, value in sorted(self.side.weights().items())}
        return {name: 0.3 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}

    def _evaluate(self, step: int, mode: Callable) -> None:
        self.side.net.eval()
        with mode():
            self._note(f"evaluation {step}", next(tensors(self.side.net, self.side(**self._inputs(step, 9)))))
        self.side.net.train()

    # -- a step ------------------------------------------------------------------------------------------------------

    def train(self, step: int) -> None:
        """Forward and backward passes of the step."""
        if "two_forwards_two_backwards" in self.has:
            passes = [self._forward(step, micro) for micro in range(self.program.accumulation)]
        else:
            passes = (self._forward(step, micro) for micro in range(self.program.accumulation))
        for micro, (x, loss) in enumerate(passes):
            self._note(f"loss {step}.{micro}", loss)
            self.side.backward(loss)
            if x.requires_grad:
                self._note(f"input's gradient {step}.{micro}", self._unscaled(x.grad))

    def _unscaled(self, gradient: Tensor | None) -> Tensor | None:
        """In fp16 a gradient that reaches an input has been multiplied with a loss scale of the side's choice."""
        if gradient is None or self.program.precision != "fp16":
            return gradient
        return gradient / gradient.abs().max().clamp(min=1e-6)

    def _inputs(self, step: int, micro: int) -> dict[str, Tensor]:
        draw = _draw(self.program, step, micro, self.rank)
        inputs = {"x": torch.randn(BATCH, TIME, DIM, generator=draw)}
        if "mask" in self.has:
            inputs["mask"] = (torch.rand(BATCH, TIME, generator=draw) < 0.8).float()
        return inputs

    def _forward(self, step: int, micro: int) -> tuple[Tensor, Tensor]:
        inputs = self._inputs(step, micro)
        x = inputs["x"].requires_grad_(bool(self.has & {"input_gradient", "gradient_penalty"}))
        loss = self._loss(inputs, step, micro)
        if "gradient_penalty" in self.has:
            (slope,) = torch.autograd.grad(loss, x, create_graph=True)
            loss = loss + slope.square().sum()
        if "contrastive" in self.has:
            loss = loss + self._loss({**inputs, "x": 0.5 * x.flip(0)}, step, micro + 50, loss)
        if "eval_inside" in self.has:
            with torch.no_grad():
                self.side(**self._inputs(step, micro + 90))
        return x, loss

    def _loss(self, inputs: dict[str, Tensor], step: int, micro: int, times: Tensor | float = 1.0) -> Tensor:
        torch.manual_seed(self.program.seed + 100 * step + 10 * micro + self.rank)
        with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in self.has):
            outputs = list(tensors(self.side.net, self.side(**inputs)))
        target = torch.randn(BATCH, TIME, DIM, generator=_draw(self.program, step, micro, self.rank, 1))
        losses = [(2 * (out - (i + 1) * target).square()).mean() for i, out in enumerate(outputs)]
        seen = [(i + 1) * feature.float().sin().mean() for i, feature in enumerate(self.side.net.context.seen)]
        return times * sum(losses + seen)

    # -- what is compared --------------------------------------------------------------------------------------------

    def _note(self, name: str, value: Tensor | None) -> None:
        self.record[name] = torch.zeros(0) if value is None else value.detach().float().clone()

    def finish(self) -> Record:
        """Everything the script saw, with the weights and buffers that it leaves."""
        buffers = dict(_buffers(self.side.net))
        return self.record | buffers | {f"weight {name}": value for name, value in self.side.weights().items()}


def _buffers(net: Net) -> Iterator[tuple[str, Tensor]]:
    return ((f"buffer {name}", value.detach().float().clone()) for name, value in net.named_buffers())
