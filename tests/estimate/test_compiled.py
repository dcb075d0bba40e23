"""What compiled regions save, allocate and cost, on functions whose answer is known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zerokit.estimate.tracker import BACKEND, Tracker
from zerokit.record.hardware import ENTRIES

MIB = 1 << 20
ROWS, WIDTH = 1024, 512  # 1 MiB of bf16


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, device="meta", requires_grad=True)


def run(function, *inputs: Tensor, tracker: Tracker | None = None):
    """Output of the compiled function on meta tensors, and the tracker that saw a second call of it."""
    tracker = tracker or Tracker(ENTRIES["h200_nvlink"])
    compiled = torch.compile(function, backend=BACKEND)
    with tracker.active():
        for tensor in inputs:
            tracker.ledger.see(tensor)
        compiled(*inputs).sum().backward()
        for tensor in inputs:
            tensor.grad = None
        tracker.ledger.restart()
        start = tracker.ledger.total
        output = compiled(*inputs)
        kept = tracker.ledger.total - start
    return output, kept / MIB, (tracker.ledger.peak - start) / MIB, tracker


def test_an_elementwise_chain_keeps_its_input_only():
    _, kept, peak, _ = run(lambda x: (x.sin().exp() * 2).relu().cos(), meta(ROWS, WIDTH))
    assert (kept, peak) == (1, 1), "the output; everything else is computed again from the input"


def test_what_a_product_reads_is_written_and_saved():
    weight = meta(WIDTH, WIDTH)
    _, kept, peak, _ = run(lambda x, w: F.silu(x) @ w, meta(ROWS, WIDTH), weight)
    assert (kept, peak) == (2, 2), "the product and its left operand"


def test_a_result_that_backward_does_not_need_is_freed():
    _, kept, peak, _ = run(lambda x, w: (x @ w).float().sum(), meta(ROWS, WIDTH), meta(WIDTH, WIDTH))
    assert 0 < kept < 0.01
    assert 1 <= peak < 1.01


def test_scatter_takes_the_memory_of_its_input():
    index = torch.empty(ROWS, 1, dtype=torch.int64, device="meta")

    def function(x, w):
        p = (x @ w).float().exp()
        return p.scatter_add(1, index, p.new_ones(ROWS, 1)).sum()

    _, _, peak, _ = run(function, meta(ROWS, WIDTH), meta(WIDTH, WIDTH))
    assert 3 <= peak < 3.1, "the product in bf16 and one fp32 copy"


def test_time_is_that_of_products_and_memory():
    hardware = ENTRIES["h200_nvlink"]
    size = 8192
    _, _, _, tracker = run(lambda x, w: x @ w, meta(size, size), meta(size, size))
    expected = 2 * size**3 / hardware.flops["bfloat16"]
    calls = 1 + 2 + 1  # forward, backward, forward
    assert calls * expected < tracker.clock.busy["products"] < 1.15 * calls * expected
    before = tracker.clock.busy["memory"]
    run(lambda x: x * 2 + 1, meta(size, size), tracker=tracker)
    moved = 2 * size * size * 2
    assert 3 * moved < (tracker.clock.busy["memory"] - before) * hardware.bandwidth < 6 * moved


def test_equal_blocks_are_compiled_once():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).relu()

    compiled = []

    def counting(module, inputs):
        compiled.append(module)
        return BACKEND(module, inputs)

    with torch.device("meta"):
        blocks = nn.ModuleList(Block() for _ in range(5))
    for block in blocks:
        block.forward = torch.compile(block.forward, backend=counting)
    x = torch.empty(4, 16, device="meta", requires_grad=True)
    with Tracker(ENTRIES["h200_nvlink"]).active():
        for block in blocks:
            x = block(x)
    assert len(compiled) == 1
