"""Compiled regions: what torch.compile's pipeline makes of a module, up to code generation.

Dynamo, AOTAutograd and Inductor's passes and partitioner run as they do on a GPU and decide what is saved for backward.
Only the kernels are not generated. Which buffers they would have is taken from one rule.

[Note: which results become buffers] Inductor computes elementwise operations and reductions inside the kernels that
use them. A result is written to memory only where a product, attention or another kernel of a library reads it, or
where it leaves the region. An elementwise kernel may write over an input of the same size that nobody reads later.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from zerokit.estimate.costs import flops_of, moved_bytes, tensors_in

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


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "overloadpacket", node.target))


def _is_view(node: fx.Node) -> bool:
    return node.target is operator.getitem or _name(node) in VIEWS or bool(getattr(node.target, "is_view", False))


def _is_fused(node: fx.Node) -> bool:
    return _name(node) in FUSED or torch.Tag.pointwise in getattr(node.target, "tags", ())


def _bytes(node: fx.Node) -> int:
    return moved_bytes(node.meta.get("val"))


def _value(argument: Any) -> Any:
    return argument.meta.get("val") if isinstance(argument, fx.Node) else argument


def _without_generators(graph: fx.Graph) -> None:
    """Call operations that draw random numbers as they are: where they are repeated in backward, they come wrapped in
    one that saves or restores the state of the generator."""
    for node in list(graph.nodes):
        if _name(node) not in ("run_and_save_rng_state", "run_with_rng_state"):
            continue
        saves = _name(node) == "run_and_save_rng_state"
        operation, *args = node.args[0 if saves else 1 :]
        with graph.inserting_before(node):
            plain = graph.call_function(operation, tuple(args), node.kwargs)
            plain.meta["val"] = operation(*fx.map_arg(tuple(args), _value), **fx.map_arg(node.kwargs, _value))
            state = graph.call_function(torch.ops.aten.empty.memory_format, ([16],), {"device": torch.device("meta")})
            state.meta["val"] = torch.empty(16, dtype=torch.uint8, device="meta")
        if saves:
            for user in list(node.users):
                user.replace_all_uses_with(plain if user.args[1] == 1 else state)
                graph.erase_node(user)
        else:
            node.replace_all_uses_with(plain)
        graph.erase_node(node)


@dataclass(eq=False)
class Buffer:
    """Memory of one result, which lives until its last reader, or longer if it is an output."""

    node: fx.Node
    size: int
    is_output: bool = False


@dataclass
class Kernel:
    """One entry of the schedule: writes `results`, then the buffers `freed` and the arguments `dropped` are done with.

    target: a buffer that it writes in place. over: an input whose memory the result takes.
    """

    node: fx.Node
    results: list[Buffer]
    reads: list[Any]
    fused: bool
    flops: float
    target: Buffer | None = None
    freed: list[Buffer] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    over: Buffer | None = None


class Region:
    """The schedule of one graph (forward or backward), and its replay on meta tensors.

    static: places of arguments that live on, such as parameters.
    """

    def __init__(self, graph: fx.Graph, static: Collection[int] = ()):
        _without_generators(graph)
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
        sizes = {i: 0 if i in static else _bytes(node) for node, i in self.arguments.items()}
        self.kernels = least_memory(self.kernels, {i: n for i, n in sizes.items() if i not in self._passed})
        self._lifetimes()

    # -- building the schedule ---------------------------------------------------------------------------------------

    def _written(self, nodes: list[fx.Node]) -> set[fx.Node]:
        """Nodes whose results become buffers."""
        written: set[fx.Node] = set()

        def base(node: fx.Node) -> fx.Node:
            while node.op == "call_function" and _is_view(node):
                node = node.all_input_nodes[0]
            return node

        for node in nodes:
            if node.op == "output":
                written.update(base(n) for n in node.all_input_nodes)
            elif node.op == "call_function" and not _is_view(node) and not _is_fused(node):
                written.add(node)
                written.update(base(n) for n in node.all_input_nodes)
            elif _name(node) in REDUCTIONS:
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
        if _name(node) in IN_PLACE and first not in self.arguments:
            self._sources[node], results = self._sources[first], {}
            target = next(iter(self._sources[first]))
        self.kernels.append(
            Kernel(node, list(results.values()), list(sources), _is_fused(node), self._flops(node), target)
        )

    @staticmethod
    def _results(node: fx.Node) -> dict[fx.Node, Buffer]:
        """The buffers that a kernel fills: one, or one for each of its results that is used."""
        if isinstance(node.meta.get("val"), tuple | list):
            members = [user for user in node.users if user.target is operator.getitem]
        else:
            members = [node]
        return {member: Buffer(member, _bytes(member)) for member in members}

    @staticmethod
    def _flops(node: fx.Node) -> float:
        args, kwargs = fx.map_arg(node.args, _value), fx.map_arg(node.kwargs, _value)
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
            args, output = fx.map_arg(kernel.node.args, _value), _value(kernel.node)
            yield kernel.node.target, args, kernel.flops, output, moved_bytes(args, output)
        if fused:
            yield None, (), 0.0, None, self._fused_bytes(fused)

    def _fused_bytes(self, kernels: list[Kernel]) -> int:
        written = {result for kernel in kernels for result in kernel.results}
        read = {source for kernel in kernels for source in kernel.reads} - written
        sizes = {index: _bytes(node) for node, index in self.arguments.items()}
        return sum(b.size for b in written) + sum(s.size if isinstance(s, Buffer) else sizes[s] for s in read)

    # -- replay ------------------------------------------------------------------------------------------------------

    def run(self, args: list[Any], tracker: Any) -> list[Any]:
        """Allocate, time and free what the kernels would; returns the outputs. `args` is emptied on the way."""
        held: list[Any] = list(args)
        args.clear()
        made: dict[Buffer, Tensor] = {}
        kept = {index: held[index] for index in self._passed}
        for kernel in self.kernels:
            if kernel.over is not None:
                tracker.ledger.add(-kernel.over.size, "temporary")
            for result in kernel.results:
                if result.is_output:
                    made[result] = _empty(result.node)
                else:
                    tracker.ledger.add(result.size, "temporary")
            for buffer in kernel.freed:
                if buffer is not kernel.over:
                    tracker.ledger.add(-buffer.size, "temporary")
            for index in kernel.dropped:
                held[index] = None
        tracker.time_region(self)
        return [self._output(node, made, kept) for node in self.outputs]

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
    base = torch.empty(max(size, _bytes(node) // value.element_size()), dtype=value.dtype, device="meta")
    return base.as_strided(value.shape, value.stride(), 0)


def least_memory(kernels: list[Kernel], arguments: dict[int, int]) -> list[Kernel]:
    """The better of two orders, as Inductor reorders for the peak of memory (torch/_inductor/memory.py): the one given,
    or always the ready kernel that raises the peak least, then the one that leaves least memory.

    arguments: bytes of those that die in the region.
    """
    greedy = _greedy(kernels, arguments)
    return min((kernels, greedy), key=lambda order: _peak(order, arguments))


def _sizes(kernel: Kernel, readers: dict[Any, int], arguments: dict[int, int]) -> tuple[int, int]:
    """Bytes that a kernel allocates, and that are free after it, given how many kernels still read each input."""
    taken = sum(result.size for result in kernel.results)
    freed = 0
    for read in kernel.reads:
        if readers[read] == 1:
            is_buffer = isinstance(read, Buffer)
            freed += (0 if read.is_output else read.size) if is_buffer else arguments.get(read, 0)
    return taken, freed


def _readers(kernels: list[Kernel]) -> Counter[Any]:
    return Counter(read for kernel in kernels for read in kernel.reads)


def _peak(order: list[Kernel], arguments: dict[int, int]) -> int:
    readers, live, peak = _readers(order), 0, 0
    for kernel in order:
        taken, freed = _sizes(kernel, readers, arguments)
        over = min(taken, freed) if kernel.fused else 0
        peak = max(peak, live + taken - over)
        live += taken - freed
        readers.subtract(kernel.reads)
    return peak


def _greedy(kernels: list[Kernel], arguments: dict[int, int]) -> list[Kernel]:
    waiting = _dependencies(kernels)
    readers, live, peak = _readers(kernels), 0, 0
    order: list[Kernel] = []
    while waiting:
        ready = [i for i, needs in waiting.items() if not needs]

        def cost(index: int, live: int = live, peak: int = peak) -> tuple[int, int, int]:
            taken, freed = _sizes(kernels[index], readers, arguments)
            return max(0, live + taken - peak), taken - freed, index

        chosen = min(ready, key=cost)
        taken, freed = _sizes(kernels[chosen], readers, arguments)
        peak, live = max(peak, live + taken), live + taken - freed
        readers.subtract(kernels[chosen].reads)
        order.append(kernels[chosen])
        del waiting[chosen]
        for needs in waiting.values():
            needs.discard(chosen)
    return order


def _dependencies(kernels: list[Kernel]) -> dict[int, set[int]]:
    """The kernels that must come before each: those that write what it reads and, if it writes in place, those that
    read what was there."""
    needs: dict[int, set[int]] = {}
    writer: dict[Buffer, int] = {}
    touched: dict[Buffer, set[int]] = {}
    for index, kernel in enumerate(kernels):
        buffers = [read for read in kernel.reads if isinstance(read, Buffer)]
        needs[index] = {writer[buffer] for buffer in buffers}
        if kernel.target is not None:
            needs[index] |= touched.get(kernel.target, set())
            writer[kernel.target] = index
        writer.update(dict.fromkeys(kernel.results, index))
        for buffer in buffers:
            touched.setdefault(buffer, set()).add(index)
    constants = {index for index, kernel in enumerate(kernels) if not kernel.reads}
    for index in constants:  # made when they are needed
        user = next((i for i, before in needs.items() if index in before), None)
        needs[index] |= needs.get(user, set()) - constants
    return needs


class Backend:
    """A backend of torch.compile whose regions only say what they would need. One for all models of a process, so
    that equal blocks are compiled once."""

    def __init__(self, tracker_of: Callable[[], Any]):
        self._tracker_of = tracker_of

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable:
        from torch._inductor.compile_fx import compile_fx

        # On the meta device constant folding would leave nothing; patterns only matter where attention is spelled out.
        patches = {"joint_graph_constant_folding": False, "pattern_matcher": False}
        return compile_fx(module, inputs, inner_compile=self._region, config_patches=patches)

    def _region(self, module: fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Callable:
        # Of a backward graph all arguments are called static, but what was saved for it dies in it.
        static = () if options.get("is_backward") else options.get("static_input_idxs", ())
        region = Region(module.graph, static)

        def run(args: list[Any]) -> list[Any]:
            return region.run(args, self._tracker_of())

        run._boxed_call = True
        return run
