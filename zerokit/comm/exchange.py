"""Small messages between the ranks on the CPU: apart from the training's collectives, and from other threads."""

from __future__ import annotations

import ctypes
import json
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

SAVE_TIMEOUT_S = 1800.0


def _group(timeout_s: float) -> dist.ProcessGroup | None:
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))


class Exchange:
    """Gathers JSON values over a gloo group of its own. Making one is a collective.

    One thread of a rank uses it at a time, and every rank calls `gather` equally often.
    """

    def __init__(self, timeout_s: float = SAVE_TIMEOUT_S):
        self._group = _group(timeout_s)
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


class Agreement:
    """A request that any rank may make at any time, in a signal handler too, and that all ranks learn of at one step.

    Every rank calls `poll` once a step. The exchange of one step is read in the next, so nobody waits for it.
    """

    def __init__(self, timeout_s: float = SAVE_TIMEOUT_S):
        self._group = _group(timeout_s)
        self._asked = 0
        self._flag = torch.zeros(1, dtype=torch.int64)
        self._work: Any = None

    def request(self, value: int = 1) -> None:
        """Ask for `value`; the largest that any rank asks for counts."""
        self._asked = max(self._asked, value)

    def poll(self) -> int:
        """What was asked for before the poll before this one (with one rank: before this one), on any rank; the same
        for all ranks. Then it is forgotten.
        """
        if self._group is None:
            value, self._asked = self._asked, 0
            return value
        value = self._finish()
        if value >= self._asked:
            self._asked = 0
        self._flag = torch.tensor([self._asked])
        self._work = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return value

    def _finish(self) -> int:
        if self._work is None:
            return 0
        self._work.wait()
        self._work = None
        return int(self._flag)

    def close(self) -> None:
        """Wait for the exchange under way; every rank has polled equally often."""
        self._finish()
