"""Attention masks of `transformers` without questions about the values of tensors, where the answer is known.

For every forward pass it asks whether positions begin anew in a row (several documents packed), and whether there is
padding to warn of, and so lets the host wait for the device. A batch without `position_ids` has one sequence a row. On
the meta device nothing can be asked: masks are made there as if they were needed, as for padding and packing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

_one_sequence: ContextVar[bool | None] = ContextVar("one_sequence", default=None)


@contextmanager
def one_sequence_a_row(known: bool) -> Iterator[None]:
    """A forward pass for the time of the block. known: no row holds more than one sequence; else it is asked."""
    token = _one_sequence.set(known)
    try:
        yield
    finally:
        _one_sequence.reset(token)


def ask_no_values() -> None:
    """Put the answers in the place of the questions; once for all models."""
    from transformers import masking_utils, modeling_utils

    if getattr(masking_utils.is_tracing, "of_zerokit", False):
        return
    traced, packed = masking_utils.is_tracing, masking_utils.find_packed_sequence_indices

    def unknown(tensor: Any = None) -> bool:
        return traced(tensor) or isinstance(tensor, Tensor) and tensor.is_meta

    def not_to_warn(tensor: Any = None) -> bool:
        return unknown(tensor) or _one_sequence.get() is not None

    def find_packed_sequence_indices(position_ids: Tensor) -> Tensor | None:
        return None if _one_sequence.get() else packed(position_ids)

    unknown.of_zerokit = True
    masking_utils.is_tracing, modeling_utils.is_tracing = unknown, not_to_warn
    masking_utils.find_packed_sequence_indices = find_packed_sequence_indices
