"""Rows of an embedding read from the shards of the GPUs of one host, where they lie: the table is never gathered.

A step needs as many rows as a micro-batch has tokens, most often a small part of the table: 2,048 of 128,256 rows are
1.6 % of its bytes. Like every gather from peer memory it needs one barrier after an update, as weights do not change
within a step.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from zerokit.comm import Communicator
from zerokit.comm.peer import PeerMemory
from zerokit.zero.unit import Unit

COLUMNS = 1024
"""Elements of a row that one program copies."""


def is_table(unit: Unit) -> bool:
    """Whether a unit is the weight of an embedding that can be read row by row."""
    module = unit.module
    plain = unit.kind == "outer" and getattr(type(module), "forward", None) is nn.Embedding.forward
    return plain and module.max_norm is None and not module.sparse and not module.scale_grad_by_freq


class Lookup:
    """The forward of an embedding over divided weights: integers (…) → rows (…, dim)."""

    def __init__(self, unit: Unit, peers: PeerMemory, comm: Communicator):
        self._module, self._comm = unit.module, comm
        first = unit.shard.storage_offset() - peers.local.storage_offset()
        self._shards = [peer[first : first + unit.layout.shard] for peer in peers.peers]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Rows of `tokens`, each in [0, rows of the table)."""
        return _Rows.apply(self._module.weight, tokens, self)

    def read(self, tokens: Tensor, rows: int, dim: int) -> Tensor:
        """(n,) → (n, dim) in the format of the weights."""
        torch._assert_async(((tokens >= 0) & (tokens < rows)).all(), "an embedding's input is outside its table")
        out = torch.empty(len(tokens), dim, dtype=self._shards[0].dtype, device=tokens.device)
        self._comm.count("row_reads", out.nbytes)
        copy_rows(out, tokens, self._shards)
        return out


@torch.library.custom_op("zerokit::copy_rows", mutates_args=("out",))
def copy_rows(out: Tensor, tokens: Tensor, shards: list[Tensor]) -> None:
    """Copy rows `tokens` (n,) of a table, which `shards` are consecutive parts of, to `out` (n, dim)."""
    if not out.is_cuda:
        width = out.shape[1]
        whole = torch.cat(shards)
        out.copy_(whole[: len(whole) // width * width].view(-1, width)[tokens])
    elif len(tokens):
        from zerokit.zero.rows_kernel import copy_rows as kernel  # needs Triton, which only GPUs have

        pointers = _pointers(tuple(shard.data_ptr() for shard in shards), out.device)
        grid = (len(tokens), -(-out.shape[1] // COLUMNS))
        kernel[grid](tokens, pointers, out, out.shape[1], len(shards[0]), COLUMNS)


@copy_rows.register_fake
def _(out: Tensor, tokens: Tensor, shards: list[Tensor]) -> None:
    return None


@lru_cache
def _pointers(addresses: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(addresses, dtype=torch.int64, device=device)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor, lookup: Lookup) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.rows, ctx.padding = len(weight), lookup._module.padding_idx
        flat = lookup.read(tokens.reshape(-1).contiguous(), *weight.shape)
        return flat.view(*tokens.shape, weight.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        if not ctx.needs_input_grad[0]:
            return None, None, None
        padding = -1 if ctx.padding is None else ctx.padding
        (tokens,) = ctx.saved_tensors
        return torch.ops.aten.embedding_dense_backward(upstream, tokens, ctx.rows, padding, False), None, None
