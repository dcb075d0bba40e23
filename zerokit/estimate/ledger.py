"""Which storages are alive, how many bytes of each kind, and what it was at the peak."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, UntypedStorage

ROUND = 512
"""Bytes: the granularity of torch's caching allocator (c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize)."""

KINDS = (
    "weights", "master", "gradients", "optimizer", "gather buffers", "reduce buffers", "activations",
    "logits and loss", "temporary",
)  # fmt: skip


def _rounded(count: int) -> int:
    return -(-count // ROUND) * ROUND


class Ledger:
    """Counts the bytes of meta tensors as a device would hold them.

    kind: given to what is allocated from now on. A storage lives until the last tensor on it is gone.
    """

    def __init__(self) -> None:
        self.kind = "temporary"
        self.live: Counter[str] = Counter()
        self.total = self.peak = 0
        self.at_peak: Counter[str] = Counter()
        self._storages: dict[int, list] = {}  # identity → [kind, bytes, weak reference]
        self._hidden: set[int] = set()

    def see(self, tensor: Tensor) -> None:
        """Count the tensor's storage, if it is new, until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages or key in self._hidden:
            return
        end = weakref.ref(storage, lambda _: self._forget(key))
        entry = self._storages[key] = [self.kind, _rounded(storage.nbytes()), end]
        self.add(entry[1], entry[0])

    def resized(self, storage: UntypedStorage) -> None:
        """Count a storage that has been given or has given back memory as it is."""
        entry = self._storages.get(storage._cdata)
        if entry is not None:
            count = _rounded(storage.nbytes())
            self.add(count - entry[1], entry[0])
            entry[1] = count

    def hide(self, tensor: Tensor) -> None:
        """Do not count the tensor's storage: it lies elsewhere (on the host, or on another rank)."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._storages:
            self._forget(storage._cdata)
        self._hidden.add(storage._cdata)
        weakref.finalize(storage, self._hidden.discard, storage._cdata).atexit = False

    def is_hidden(self, tensor: Tensor) -> bool:
        """Whether the tensor's storage lies elsewhere."""
        return tensor.untyped_storage()._cdata in self._hidden

    def label(self, tensors: Iterable[Tensor | None], kind: str) -> None:
        """Say of what kind storages that are counted already are."""
        for tensor in tensors:
            if tensor is None:
                continue
            entry = self._storages[tensor.untyped_storage()._cdata]
            self.live[entry[0]] -= entry[1]
            entry[0] = kind
            self.live[kind] += entry[1]

    def add(self, count: int, kind: str) -> None:
        """Count `count` more bytes (fewer, if negative) that no tensor stands for."""
        self.live[kind] += count
        self.total += count
        if self.total > self.peak:
            self.peak, self.at_peak = self.total, self.live.copy()

    def restart(self) -> None:
        """Look for the peak from now on."""
        self.peak, self.at_peak = self.total, self.live.copy()

    @contextmanager
    def of_kind(self, kind: str) -> Iterator[None]:
        """What is allocated inside is of this kind."""
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

    def _forget(self, key: int) -> None:
        kind, count, _ = self._storages.pop(key)
        self.add(-count, kind)
