"""One compiled graph as the kernels and buffers it would have on a device, and its replay.

[Note: which results become buffers] Inductor computes elementwise operations and reductions inside the kernels that
use them. A result is written to memory only where a product, attention or another kernel of a library reads it, or
where it leaves the region. An elementwise kernel may write over an input of the same size that nobody reads later.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from zerokit.estimate.costs import flops_of, moved_bytes, tensors_in
from zerokit.estimate.operations import (
    IN_PLACE,
    REDUCTIONS,
    bytes_of,
    is_fused,
    is_view,
    name_of,
    value_of,
    without_generators,
)
from zerokit.estimate.order import Buffer, Kernel, least_memory


class Region:
    """The schedule of one graph (forward or backward), and its replay on meta tensors.

    static: places of arguments that live on, such as parameters.
    """

    def __init__(self, graph: fx.Graph, static: Collection[int] = ()):
        without_generators(graph)
        nodes = list(graph.nodes)
        self.arguments = {node: i for i, node in enumerate(n for n in nodes if n.op == "placeholder")}
        self.outputs = list(nodes[-1].args[0])
        self._sources: dict[fx.Node, dict[Any, None]] = {}  # what a node reads: buffers and arguments
        self.kernels: list[Kernel] = []
        self._passed: set[int] = set()
        written = self._written(nodes)
        for node in nodes:
            if node.op == "call_function":
                self._schedule(node, written)
        self._leaving()
        sizes = {i: 0 if i in static else bytes_of(node) for node, i in self.arguments.items()}
        self.kernels = least_memory(self.kernels, {i: n for i, n in sizes.items() if i not in self._passed})
        self._lifetimes()

    # -- building the schedule ---------------------------------------------------------------------------------------

    def _written(self, nodes: list[fx.Node]) -> set[fx.Node]:
        """Nodes whose results become buffers."""
        written: set[fx.Node] = set()

        def base(node: fx.Node) -> fx.Node:
            while node.op == "call_function" and is_view(node):
                node = node.all_input_nodes[0]
            return node

        for node in nodes:
            if node.op == "output":
                written.update(base(n) for n in node.all_input_nodes)
            elif node.op == "call_function" and not is_view(node) and not is_fused(node):
                written.add(node)
                written.update(base(n) for n in node.all_input_nodes)
            elif name_of(node) in REDUCTIONS:
                written.add(node)
        return written

    def _schedule(self, node: fx.Node, written: set[fx.Node]) -> None:
        if node in self._sources:  # one of several results of a kernel
            return
        sources: dict[Any, None] = {}
        for other in node.all_input_nodes:
            sources.update({self.arguments[other]: None} if other in self.arguments else self._sources[other])
        self._sources[node] = sources
        if node not in written:
            return
        results = self._results(node)
        for user, buffer in results.items():
            self._sources[user] = {buffer: None}
        first = node.all_input_nodes[0] if node.all_input_nodes else None
        target = None
        if name_of(node) in IN_PLACE and first not in self.arguments:
            self._sources[node], results = self._sources[first], {}
            target = next(iter(self._sources[first]))
        self.kernels.append(
            Kernel(node, list(results.values()), list(sources), is_fused(node), self._flops(node), target)
        )

    @staticmethod
    def _results(node: fx.Node) -> dict[fx.Node, Buffer]:
        """The buffers that a kernel fills: one, or one for each of its results that is used."""
        if isinstance(node.meta.get("val"), tuple | list):
            members = [user for user in node.users if user.target is operator.getitem]
        else:
            members = [node]
        return {member: Buffer(member, bytes_of(member)) for member in members}

    @staticmethod
    def _flops(node: fx.Node) -> float:
        args, kwargs = fx.map_arg(node.args, value_of), fx.map_arg(node.kwargs, value_of)
        return flops_of(node.target, args, kwargs, node.meta.get("val"))

    def _leaving(self) -> None:
        """Find the buffers that are outputs, and the arguments that leave again, as they are or as views."""
        for node in (n for n in self.outputs if isinstance(n, fx.Node)):
            if node in self.arguments:
                self._passed.add(self.arguments[node])
                continue
            for source in self._sources[node]:
                if isinstance(source, Buffer):
                    source.is_output = True
                else:
                    self._passed.add(source)

    def _lifetimes(self) -> None:
        last: dict[Any, int] = {}
        for place, kernel in enumerate(self.kernels):
            last.update(dict.fromkeys([*kernel.reads, *kernel.results], place))
        for place, kernel in enumerate(self.kernels):
            ending = [x for x in dict.fromkeys([*kernel.reads, *kernel.results]) if last[x] == place]
            kernel.dropped = [x for x in ending if not isinstance(x, Buffer)]
            kernel.freed = [x for x in ending if isinstance(x, Buffer) and not x.is_output]
            if kernel.fused and kernel.results:
                size = kernel.results[0].size
                kernel.over = next((b for b in kernel.freed if b.size == size and b not in kernel.results), None)

    def work(self) -> Iterator[tuple[Any, Any, float, Any, int]]:
        """Operation, arguments, arithmetic, result and bytes of every kernel. Elementwise kernels between two others
        are fused: what they read and write counts once."""
        fused: list[Kernel] = []
        for kernel in self.kernels:
            if kernel.fused:
                fused.append(kernel)
                continue
            if fused:
                yield None, (), 0.0, None, self._fused_bytes(fused)
                fused = []
            args, output = fx.map_arg(kernel.node.args, value_of), value_of(kernel.node)
            yield kernel.node.target, args, kernel.flops, output, moved_bytes(args, output)
        if fused:
            yield None, (), 0.0, None, self._fused_bytes(fused)

    def _fused_bytes(self, kernels: list[Kernel]) -> int:
        written = {result for kernel in kernels for result in kernel.results}
        read = {source for kernel in kernels for source in kernel.reads} - written
        sizes = {index: bytes_of(node) for node, index in self.arguments.items()}
        return sum(b.size for b in written) + sum(s.size if isinstance(s, Buffer) else sizes[s] for s in read)

    # -- replay ------------------------------------------------------------------------------------------------------

    def run(self, args: list[Any], tracker: Any) -> list[Any]:
        """Allocate, time and free what the kernels would; returns the outputs. `args` is emptied on the way."""
        held: list[Any] = list(args)
        args.clear()
        made: dict[Buffer, Tensor] = {}
        kept = {index: held[index] for index in self._passed}
        with torch._C._DisableTorchDispatch():  # the tracker is told here; asking it by dispatch takes longer
            for kernel in self.kernels:
                if kernel.over is not None:
                    tracker.ledger.add(-kernel.over.size, "temporary")
                for result in kernel.results:
                    if result.is_output:
                        made[result] = _empty(result.node)
                        tracker.ledger.see(made[result])
                    else:
                        tracker.ledger.add(result.size, "temporary")
                for buffer in kernel.freed:
                    if buffer is not kernel.over:
                        tracker.ledger.add(-buffer.size, "temporary")
                for index in kernel.dropped:
                    held[index] = None
            outputs = [self._output(node, made, kept) for node in self.outputs]
        tracker.time_region(self)
        return outputs

    def _output(self, node: Any, made: dict[Buffer, Tensor], kept: dict[int, Any]) -> Any:
        if not isinstance(node, fx.Node):
            return node
        if node in self.arguments:
            return kept[self.arguments[node]]
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return value
        source = next(iter(self._sources[node]))
        whole = made[source] if isinstance(source, Buffer) else kept[source]
        if isinstance(source, Buffer) and source.node is node:  # no view of it
            return whole
        return whole.as_strided(value.shape, value.stride(), whole.storage_offset())


def _empty(node: fx.Node) -> Tensor:
    value = tensors_in(node.meta["val"])[0]
    if value.is_contiguous():
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    size = sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True)) + 1 if value.numel() else 0
    base = torch.empty(max(size, bytes_of(node) // value.element_size()), dtype=value.dtype, device="meta")
    return base.as_strided(value.shape, value.stride(), 0)
