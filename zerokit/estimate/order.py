"""The order of a region's kernels: buffers, what depends on what, and which order takes least memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import fx


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
