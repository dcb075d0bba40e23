"""The operations of a compiled graph: which Inductor computes itself, which are views, which write in place."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from zerokit.estimate.costs import moved_bytes

REDUCTIONS = frozenset(
    {
        "aten.sum",
        "aten.mean",
        "aten.amax",
        "aten.amin",
        "aten.max",
        "aten.min",
        "aten.var_mean",
        "aten.var",
        "aten.prod",
        "aten.any",
        "aten.all",
        "aten.argmax",
        "aten.argmin",
    }  # fmt: skip
)
"""Operations whose results Inductor always keeps, so that their inputs are not needed for longer."""
FUSED = REDUCTIONS | frozenset(
    {
        "aten._softmax",
        "aten._log_softmax",
        "aten.cat",
        "aten.clone",
        "aten.where",
        "aten.full",
        "aten.full_like",
        "aten.empty",
        "aten.zeros_like",
        "aten.ones_like",
        "aten.gather",
        "aten.index",
        "aten.embedding",
        "aten.slice_scatter",
        "aten.select_scatter",
        "aten.constant_pad_nd",
        "aten.copy",
        "aten._to_copy",
        "aten.scalar_tensor",
        "aten.arange",
        "aten.native_dropout",
        "aten.bernoulli",
        "aten.rand",
        "aten.rand_like",
        "aten.repeat",
        "aten.flip",
        "aten.new_zeros",
        "aten.new_full",
        "aten.zeros",
        "aten.ones",
        "aten.tril",
        "aten.triu",
        "prims.convert_element_type",
        "prims.iota",
        "prims.inductor_random",
        "prims.inductor_seeds",
        "prims.inductor_lookup_seed",
        "prims.prepare_softmax_online",
    }  # fmt: skip
)
"""Operations beside the elementwise ones that Inductor computes itself: reductions, indexing, constants."""
VIEWS = frozenset(("aten._unsafe_view", "aten.reshape", "aten.lift_fresh_copy"))
IN_PLACE = frozenset(
    {
        "aten.scatter_add",
        "aten.scatter",
        "aten.index_put",
        "aten._unsafe_index_put",
        "aten.scatter_reduce",
        "aten.index_add",
    }  # fmt: skip
)
"""Kernels that write into their first argument; Inductor copies it first if it is needed later."""


def name_of(node: fx.Node) -> str:
    """The operation of a node, without its overload."""
    return str(getattr(node.target, "overloadpacket", node.target))


def is_view(node: fx.Node) -> bool:
    """Whether the result shares its memory with an argument."""
    return node.target is operator.getitem or name_of(node) in VIEWS or bool(getattr(node.target, "is_view", False))


def is_fused(node: fx.Node) -> bool:
    """Whether Inductor computes the operation inside its own kernels."""
    return name_of(node) in FUSED or torch.Tag.pointwise in getattr(node.target, "tags", ())


def bytes_of(node: fx.Node) -> int:
    """Bytes of what a node results in."""
    return moved_bytes(node.meta.get("val"))


def value_of(argument: Any) -> Any:
    """The fake value of a node; anything else as it is."""
    return argument.meta.get("val") if isinstance(argument, fx.Node) else argument


def without_generators(graph: fx.Graph) -> None:
    """Call operations that draw random numbers as they are: where they are repeated in backward, they come wrapped in
    one that saves or restores the state of the generator."""
    for node in list(graph.nodes):
        if name_of(node) not in ("run_and_save_rng_state", "run_with_rng_state"):
            continue
        saves = name_of(node) == "run_and_save_rng_state"
        operation, *args = node.args[0 if saves else 1 :]
        with graph.inserting_before(node):
            plain = graph.call_function(operation, tuple(args), node.kwargs)
            plain.meta["val"] = operation(*fx.map_arg(tuple(args), value_of), **fx.map_arg(node.kwargs, value_of))
            state = graph.call_function(torch.ops.aten.empty.memory_format, ([16],), {"device": torch.device("meta")})
            state.meta["val"] = torch.empty(16, dtype=torch.uint8, device="meta")
        if saves:
            for user in list(node.users):
                user.replace_all_uses_with(plain if user.args[1] == 1 else state)
                graph.erase_node(user)
        else:
            node.replace_all_uses_with(plain)
        graph.erase_node(node)
