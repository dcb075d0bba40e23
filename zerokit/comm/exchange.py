"""Small messages between the ranks on the CPU: apart from the training's collectives, and from other threads."""

from __future__ import annotations

import ctypes
import json
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

SAVE_TIMEOUT_S = 1800.0
FOR_EVER = timedelta(days=3650)


class Exchange:
    """Gathers JSON values over a gloo group of its own. Making one is a collective.

    One thread of a rank uses it at a time, and every rank calls `gather` equally often. timeout_s: seconds that a rank
    waits for the others; None waits for ever.
    """

    def __init__(self, timeout_s: float | None = SAVE_TIMEOUT_S):
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        timeout = FOR_EVER if timeout_s is None else timedelta(seconds=timeout_s)
        self._group = dist.new_group(backend="gloo", timeout=timeout) if several else None
        self.world = 1 if self._group is None else dist.get_world_size(self._group)
        self.rank = 0 if self._group is None else dist.get_rank(self._group)

    def gather(self, message: Any) -> list[Any]:
        """The messages of all ranks, in the order of the ranks, on every rank. No pickle is involved."""
        data = json.dumps(message).encode()
        if self._group is None:
            return [json.loads(data)]
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(data)]), group=self._group)
        longest = max(int(size) for size in sizes)
        padded = torch.frombuffer(bytearray(data.ljust(longest)), dtype=torch.uint8)
        texts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(texts, padded, group=self._group)
        return [json.loads(ctypes.string_at(text.data_ptr(), longest)) for text in texts]

    def first(self, message: Any) -> Any:
        """The message of rank 0."""
        return self.gather(message if self.rank == 0 else None)[0]
