"""The GPU kernel of `zerokit.zero.lookup`. Imported on GPUs only, where Triton is."""

import triton
import triton.language as tl


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
