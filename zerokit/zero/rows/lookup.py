"""Rows of an embedding read from the shards of the GPUs of one host, where they lie: the table is never gathered.

A step needs as many rows as a micro-batch has tokens, most often a small part of the table: 2,048 of 128,256 rows are
1.6 % of its bytes. Like every gather from peer memory it needs one barrier after an update, as weights do not change
within a step.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from zerokit.comm import Communicator
from zerokit.comm.peer import PeerMemory
from zerokit.zero.unit import Unit


def is_table(unit: Unit) -> bool:
    """Whether a unit is the weight of an embedding that can be read row by row."""
    module = unit.module
    plain = unit.kind == "outer" and getattr(type(module), "forward", None) is nn.Embedding.forward
    return plain and module.max_norm is None and not module.sparse and not module.scale_grad_by_freq


class Lookup:
    """The forward of an embedding: integers (…) → rows (…, dim), read from the shards of all ranks if they are divided.

    Backward leaves the gradients of rows in `unit.rows`, or makes the table's where they do not travel by rows.
    """

    def __init__(self, unit: Unit, peers: PeerMemory | None, comm: Communicator):
        self._unit, self._comm = weakref.ref(unit), comm  # the unit has the module, which has this
        self._shards: list[Tensor] = []
        if unit.in_place:
            shard = unit.shard.values
            first = shard.storage_offset() - peers.local.storage_offset()
            self._shards = [peer[first : first + len(shard)] for peer in peers.peers]

    @property
    def unit(self) -> Unit:
        """The table."""
        unit = self._unit()
        if unit is None:
            raise RuntimeError("The engine of this embedding is gone: keep the engine as long as its model is used.")
        return unit

    def __call__(self, tokens: Tensor) -> Tensor:
        """Rows of `tokens`, each in [0, rows of the table)."""
        return _Rows.apply(self.unit.parameters[0], tokens, self)

    def read(self, weight: Tensor, tokens: Tensor) -> Tensor:
        """Integers (…) → (…, dim) in the format of the weights."""
        if not self._shards:
            return nn.functional.embedding(tokens, weight)
        rows, dim = weight.shape
        flat = tokens.reshape(-1).contiguous()
        torch._assert_async(((flat >= 0) & (flat < rows)).all(), "an embedding's input is outside its table")
        out = torch.empty(len(flat), dim, dtype=weight.dtype, device=flat.device)
        self._comm.count("row_reads", out.nbytes)
        copy_rows(out, flat, self._shards)
        return out.view(*tokens.shape, dim)


@torch.library.custom_op("zerokit::copy_rows", mutates_args=("out",))
def copy_rows(out: Tensor, tokens: Tensor, shards: list[Tensor]) -> None:
    """Copy rows `tokens` (n,) of a table, which `shards` are consecutive parts of, to `out` (n, dim)."""
    if not out.is_cuda:
        width = out.shape[1]
        whole = torch.cat(shards)
        out.copy_(whole[: len(whole) // width * width].view(-1, width)[tokens])
    elif len(tokens):
        from zerokit.zero.rows import kernels  # needs Triton, which only GPUs have

        pointers = addresses(shards, out.device)
        grid, columns = kernels.grid(*out.shape)
        kernels.copy_rows[grid](tokens, pointers, out, out.shape[1], len(shards[0]), columns)


@copy_rows.register_fake
def _(out: Tensor, tokens: Tensor, shards: list[Tensor]) -> None:
    return None


def addresses(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Where tensors that stay where they are begin: (n,) integers on the device, made once."""
    return on_device(tuple(tensor.data_ptr() for tensor in tensors), device)


@lru_cache
def on_device(values: tuple[int, ...], device: torch.device) -> Tensor:
    """Integers (n,) on the device, made once."""
    return torch.tensor(values, dtype=torch.int64, device=device)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor, lookup: Lookup) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.shape, ctx.lookup = weight.shape, lookup
        return lookup.read(weight, tokens)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        if not ctx.needs_input_grad[0]:
            return None, None, None
        (tokens,) = ctx.saved_tensors
        unit, (rows, dim) = ctx.lookup.unit, ctx.shape
        padding = unit.module.padding_idx
        if unit.rows is None:
            padding = -1 if padding is None else padding
            return torch.ops.aten.embedding_dense_backward(upstream, tokens, rows, padding, False), None, None
        if padding is not None:
            upstream = upstream.masked_fill((tokens == padding).unsqueeze(-1), 0)
        unit.rows.append((tokens.reshape(-1), upstream.reshape(-1, dim)))
        return None, None, None
