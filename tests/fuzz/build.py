"""The model of a program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.fuzz.modules import DIM, MAKE, linear
from tests.fuzz.packs import ENTER, PACK, UNPACK
from tests.fuzz.program import Block, Program

VOCABULARY = DIM  # as many as features, so that an embedding's weight can be a head's


class Context:
    """What a training script tells a model and its hooks, and what these leave for the loss."""

    def __init__(self, rank: int):
        self.rank, self.step = rank, 0
        self.seen: list[Tensor] = []


class Member(nn.Module):
    """A body whose input and output come in other forms, or whose inner features are used."""

    def __init__(self, block: Block, body: nn.Module):
        super().__init__()
        self.block, self.body = block, body
        self.inner = block.checkpoint.startswith("inner_")
        if block.use in ("inner_hook", "probe", "seen"):
            self.after = linear()

    def forward(self, entered: Any) -> Any:
        x = UNPACK[self.block.pack](entered) if self.block.pack in ENTER else entered
        out = _called(self.body, x, self.block.checkpoint.removeprefix("inner_") if self.inner else "")
        if hasattr(self, "after"):
            self.seen, out = out, self.after(out)
        return PACK[self.block.pack](out, x)


def _member(block: Block, context: Context) -> nn.Module:
    body = MAKE[block.body]()
    wrapped = block.pack or block.use in ("inner_hook", "probe", "seen") or block.checkpoint.startswith("inner_")
    member = Member(block, body) if wrapped else body
    if block.frozen:
        member.requires_grad_(False)

    def see(module: nn.Module, args: tuple, out: Any) -> None:
        context.seen.append(UNPACK[block.pack if module is member else ""](out))

    def read(module: nn.Module, args: tuple) -> None:
        context.seen.append(sum(p.square().sum() for p in module.parameters()))

    if block.use in ("inner_hook", "probe"):
        body.register_forward_hook(see)
    elif block.use == "hook":
        member.register_forward_hook(see)
    elif block.use == "pre_hook":
        member.register_forward_pre_hook(read)
    return member


def _called(module: nn.Module, x: Any, how: str) -> Any:
    if how in ("reentrant", "nonreentrant"):
        return checkpoint(module, x, use_reentrant=how == "reentrant")
    return module(x)


def _change(h: Tensor, how: str) -> Tensor:
    if how == "copy_slice_":
        h[:, 0] = 0.1
    elif how == "add_inner_view_":
        h[:, 1:].unsqueeze(-1).add_(0.1)
    elif how:
        getattr(h, how)(*{"add_": (0.1,), "mul_": (0.9,)}.get(how, ()))
    return h


class Chain(nn.Module):
    """Blocks in a row, in a container."""

    def __init__(self, blocks: tuple[Block, ...], container: str, context: Context, twice: bool):
        super().__init__()
        members = [_member(block, context) for block in blocks]
        if twice:
            blocks, members = (*blocks, blocks[0]), [*members, members[0]]
        self.whole = container == "sequential" and all(block == _plain(block) for block in blocks)
        if self.whole:
            changes = [nn.ReLU(inplace=True) if block.inplace else nn.Identity() for block in blocks]
            self.row = nn.Sequential(*(module for pair in zip(members, changes, strict=True) for module in pair))
        else:
            _contain(self, members, container)
        self.blocks, self.context = blocks, context
        self.order = tuple(members)  # a tuple registers nothing

    def forward(self, h: Tensor) -> Tensor:
        if self.whole:
            return self.row(h)
        pairs = list(zip(self.blocks, self.order, strict=True))
        for block, member in pairs + [pair for pair in pairs if pair[0].again]:
            if not (block.dropped and self.context.step % 2):
                h = self._run(block, member, h)
        return h

    def _run(self, block: Block, member: nn.Module, h: Tensor) -> Tensor:
        entered = ENTER[block.pack](h) if block.pack in ENTER else h
        out = _called(member, entered, block.checkpoint)
        if block.use == "seen":
            self.context.seen.append(member.seen)
        return h if block.use == "probe" else _change(UNPACK[block.pack](out), block.inplace)


def _plain(block: Block) -> Block:
    return Block(block.body, inplace=block.inplace and "relu_", frozen=block.frozen)


def _contain(chain: nn.Module, members: list[nn.Module], container: str) -> None:
    if container == "dict":
        chain.row = nn.ModuleDict({str(i): member for i, member in enumerate(members)})
    elif container == "rows":
        pairs = [members[i : i + 2] for i in range(0, len(members), 2)]
        chain.row = nn.ModuleList(
            nn.ModuleList([first, *(nn.ModuleDict({"other": member}) for member in rest)]) for first, *rest in pairs
        )
    elif container == "plain_attributes":
        for i, member in enumerate(members):
            setattr(chain, f"block{i}", member)
    elif container == "sequential":
        chain.row = nn.Sequential(*members)
    else:
        chain.row = nn.ModuleList(members)


def _tie(linears: list[nn.Linear]) -> None:
    """Give the first and the last of one shape one weight."""
    alike = [module for module in linears if module.weight.shape == (DIM, DIM)]
    if alike and all("weight" in module._parameters for module in (alike[0], alike[-1])):
        alike[-1].weight = alike[0].weight


class Net(nn.Module):
    """stem → chains of blocks → heads, from x (BATCH, TIME, DIM) to the same shape."""

    def __init__(self, program: Program, context: Context):
        super().__init__()
        self.program, self.context, has = program, context, program.extras
        embeds = program.stem != "linear"
        twice = "registered_twice" in has
        padding = 0 if program.stem == "padding" else None
        self.stem = nn.Embedding(VOCABULARY, DIM, padding) if embeds else linear()
        self.stem.requires_grad_("frozen_stem" not in has)
        if program.container == "stages":
            middle = (len(program.blocks) + 1) // 2
            halves = (program.blocks[:middle], program.blocks[middle:])
            self.chains = nn.ModuleList(Chain(half, "list", context, twice) for half in halves if half)
        else:
            self.chain = Chain(program.blocks, program.container, context, twice)
        self.experts = nn.ModuleList(linear() for _ in range(3)) if "experts" in has else None
        self.spare = nn.ModuleList([linear()]) if "unused_module" in has else None
        self.scale = nn.Parameter(torch.full((DIM,), 0.9)) if "root_parameter" in has else None
        self.head = linear()
        self.second = linear() if "two_heads" in has else None
        if "tied_head" in has:
            self.head.weight = self.stem.weight
        if "tied_blocks" in has:
            _tie([module for module in self.links[0].modules() if type(module) is nn.Linear])

    @property
    def links(self) -> tuple[Chain, ...]:
        """The chains in their order."""
        return tuple(self.chains) if self.program.container == "stages" else (self.chain,)

    @property
    def members(self) -> tuple[nn.Module, ...]:
        """The blocks in their order."""
        return tuple(member for chain in self.links for member in chain.order)

    def square(self) -> Tensor | None:
        """A weight of shape (DIM, DIM) inside the last block that has one, read from its module."""
        found = [
            (module, name)
            for member in self.members
            for module in member.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.shape == (DIM, DIM)
        ]
        return getattr(*found[-1]) if found else None

    def linears(self) -> list[tuple[nn.Module, str, nn.Linear]]:
        """One linear layer inside a block, with its parent and its name there, if there is one that trains."""
        frozen = torch.empty(0)
        found = [
            (parent, name, child)
            for member in self.members
            for parent in member.modules()
            for name, child in parent.named_children()
            if type(child) is nn.Linear and dict(child.named_parameters()).get("weight", frozen).requires_grad
        ]
        return found[-1:]

    def _enter(self, x: Tensor) -> Tensor:
        if isinstance(self.stem, nn.Linear):
            return self.stem(x)
        tokens = (x[..., 0].detach().float() * 3).long() % VOCABULARY
        return self.stem(tokens) + x

    def _through(self, h: Tensor) -> Tensor:
        for chain in self.links:
            h = chain(h)
        return h

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Everything but the heads."""
        has, h = self.program.extras, self._enter(x)
        if mask is not None:
            h = h * mask.unsqueeze(-1)
        if "dropout" in has:
            h = F.dropout(h, 0.2, self.training)
        if self.scale is not None:
            h = h * self.scale
        for _ in range(2 if "cycle" in has else 1):
            if has & {"segment_reentrant", "segment_nonreentrant"}:
                h = checkpoint(self._through, h, use_reentrant="segment_reentrant" in has)
            else:
                h = self._through(h)
        if self.experts is not None:
            h = h + self.experts[(self.context.step + self.context.rank) % len(self.experts)](h)
        return h

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        has = self.program.extras
        self.context.seen.clear()
        first = self.square() if "raw_weight" in has else None
        h = self.encode(x if first is None else x + 0.3 * F.linear(x, first), mask)
        if "tied_by_hand" in has and self.square() is not None:
            h = h + 0.3 * h @ self.square()
        if "raw_stem" in has:
            h = h + 0.3 * F.linear(h, self.stem.weight)
        out = PACK[self.program.output](self.head(h), x)
        return out if self.second is None else (out, self.second(h))


def build(program: Program, rank: int) -> Net:
    """The model, with the same weights on every rank."""
    torch.manual_seed(program.seed)
    return Net(program, Context(rank))


def tensors(net: Net, output: Any) -> Iterator[Tensor]:
    """What the model handed out: (BATCH, TIME, DIM) each, in fp32."""
    first, *rest = output if net.second is not None else (output,)
    yield UNPACK[net.program.output](first).float()
    yield from (tensor.float() for tensor in rest)
