"""What operations cost: of tables the rows in use, however long they are; of products their tiles."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zerokit.estimate.costs import product_seconds
from zerokit.estimate.tracker import Tracker
from zerokit.model._linear_cross_entropy import softmax_gradient
from zerokit.record.hardware import ENTRIES
from zerokit.zero.rows.gradient import add_rows, send_rows
from zerokit.zero.rows.lookup import copy_rows

TOKENS, DIM = 16, 64
ROW = DIM * 4
HARDWARE = dataclasses.replace(ENTRIES["h200_nvlink"], overhead=0.0, bandwidth=1.0)
"""A second per byte."""


def of(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def tokens() -> torch.Tensor:
    return of(TOKENS, dtype=torch.int64)


def looked_up(rows: int) -> None:
    torch.nn.functional.embedding(tokens(), of(rows, DIM))


def copied(rows: int) -> None:
    copy_rows(of(TOKENS, DIM), tokens(), [of(rows // 2 * DIM)] * 2)


def sent(rows: int) -> None:
    used, bases = of(dtype=torch.int32), of(2, dtype=torch.int32)
    send_rows([of(rows // 2 * DIM)], of(TOKENS, DIM), tokens(), used, bases, rows // 2 * DIM, 0)


@pytest.mark.parametrize("operation", [looked_up, copied, sent])
@pytest.mark.parametrize("rows", [1_000, 100_000])
def test_rows_of_a_table_cost_what_they_take_to_read_and_write(operation, rows):
    tracker = Tracker(HARDWARE)
    with tracker.active():
        operation(rows)
    assert tracker.clock.busy["memory"] == pytest.approx(TOKENS * (8 + 2 * ROW))


@pytest.mark.parametrize("accumulate", [False, True])
def test_a_shard_of_a_gradient_costs_itself_and_the_rows_that_it_gets(accumulate):
    tracker, rows = Tracker(HARDWARE), 1_000
    with tracker.active():
        own = of(rows, dtype=torch.int32)
        add_rows(of(rows * DIM), of(TOKENS, DIM), own, [of(rows * DIM)], [own], 0, accumulate)
    shard = (1 + accumulate) * rows * ROW
    assert tracker.clock.busy["memory"] == pytest.approx(shard + TOKENS * ROW + 2 * rows * 4)


@pytest.mark.parametrize("times", [1, 2])
def test_logits_are_read_once_and_written_if_their_gradient_takes_their_place(times):
    tracker = Tracker(HARDWARE)
    with tracker.active():
        softmax_gradient(of(TOKENS, DIM), tokens(), of() if times == 2 else None)
    assert tracker.clock.busy["memory"] == pytest.approx(times * TOKENS * (ROW + 8))


def product(rows: int, inner: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> float:
    """Seconds of a matrix product on an H100, beside what starting it takes."""
    a, b = of(rows, inner, dtype=dtype), of(inner, columns, dtype=dtype)
    hardware = ENTRIES["h100_ib400"]
    return product_seconds(torch.ops.aten.mm.default, (a, b), 2 * rows * inner * columns, a @ b, hardware)


@given(*[st.integers(1, 9000)] * 3)
def test_a_product_is_never_faster_than_the_peak(rows, inner, columns):
    assert product(rows, inner, columns) >= 2 * rows * inner * columns / ENTRIES["h100_ib400"].flops["bfloat16"]


def test_a_product_with_fewer_tiles_than_units_splits_its_inner_dimension():
    weight_gradient = product(1024, 8192, 1024)  # 32 tiles for 132 units
    assert weight_gradient < 1.4 * 2 * 1024 * 8192 * 1024 / ENTRIES["h100_ib400"].flops["bfloat16"]


def test_a_narrow_product_takes_narrow_tiles():
    assert product(8192, 1024, 64) < 0.4 * product(8192, 1024, 256)


def test_starting_a_tile_hardly_counts_where_the_format_is_slow():
    flops = 2 * 8192 * 64 * 8192
    peaks = ENTRIES["h100_ib400"].flops
    assert product(8192, 64, 8192, torch.float32) < 1.2 * flops / peaks["float32"]
    assert product(8192, 64, 8192) > 2 * flops / peaks["bfloat16"]
