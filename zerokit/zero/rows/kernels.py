"""The GPU kernels of `zerokit.zero.rows.lookup` and `row_gradient`. Imported on GPUs only, where Triton is."""

import triton
import triton.language as tl


def grid(rows: int, dim: int) -> tuple[tuple[int, int], int]:
    """Programs for rows of `dim` elements, and how many columns each of them takes."""
    columns = min(triton.next_power_of_2(dim), 2048)
    return (rows, triton.cdiv(dim, columns)), columns


@triton.jit
def copy_rows(tokens, pointers, out, dim, shard, columns: tl.constexpr):
    """Program (i, j) copies part j of row tokens[i]; element e of the table lies at e % shard of rank e // shard."""
    place = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    inside = column < dim
    element = tl.load(tokens + place).to(tl.int64) * dim + column
    base = tl.load(pointers + element // shard, mask=inside).to(tl.pointer_type(out.dtype.element_ty))
    values = tl.load(base + element % shard, mask=inside)
    tl.store(out + place * dim + column, values, mask=inside)


@triton.jit
def send_rows(values, ids, used, bases, targets, dim, shard, own, columns: tl.constexpr):
    """Program (i, j) writes part j of values[i] to the owner of its elements, unless that is `own`."""
    row = tl.program_id(0).to(tl.int64)
    if row < tl.load(used):
        column = tl.program_id(1) * columns + tl.arange(0, columns)
        inside = column < dim
        owner = (tl.load(ids + row) * dim + column) // shard
        inside = inside & (owner != own)
        target = tl.load(targets + owner, mask=inside).to(tl.pointer_type(values.dtype.element_ty))
        place = (row - tl.load(bases + owner, mask=inside)) * dim + column
        tl.store(target + place, tl.load(values + row * dim + column, mask=inside), mask=inside)


@triton.jit
def add_rows(
    gradient,
    values,
    own,
    landed,
    places,
    start,
    size,
    dim,
    others: tl.constexpr,
    accumulate: tl.constexpr,
    columns: tl.constexpr,
):
    """Program (i, j) makes part j of row i: element e of the rows is element e - start of the gradient."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    element = row * dim + column - start
    inside = (column < dim) & (element >= 0) & (element < size)
    total = tl.zeros((columns,), tl.float32)
    if accumulate:
        total += tl.load(gradient + element, mask=inside).to(tl.float32)
    place = tl.load(own + row).to(tl.int64)
    total += tl.load(values + place * dim + column, mask=inside & (place >= 0), other=0.0).to(tl.float32)
    for other in tl.static_range(others):
        place = tl.load(tl.load(places + other).to(tl.pointer_type(tl.int32)) + row).to(tl.int64)
        rows = tl.load(landed + other).to(tl.pointer_type(values.dtype.element_ty))
        total += tl.load(rows + place * dim + column, mask=inside & (place >= 0), other=0.0).to(tl.float32)
    tl.store(gradient + element, total.to(gradient.dtype.element_ty), mask=inside)
