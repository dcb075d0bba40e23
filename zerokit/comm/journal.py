"""What each rank of a host does next, written where the others see it: ranks that part are found before they mix data.

A collective that ranks enter for different reasons waits for ever, or gives each of them what was meant for others. So
every rank numbers what it is about to gather in memory that all ranks of the host share, and compares: whoever comes
second to a place in the order finds a difference. That takes a microsecond and waits for nobody. Where the collective
would wait for the others in any case (on a CPU), so does the comparison: then the error comes on every rank.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LENGTH = 1024
"""Entries that are kept of each rank; no host gets as far ahead of another."""
PATIENCE_S = 2.0
"""Seconds that a comparison waits for the others, before the collective does, which notices ranks that are gone."""
SHARED = Path("/dev/shm")
PATH_BYTES = 4096


@dataclass(frozen=True)
class Parting:
    """At one place in the order, `other` wrote `theirs` where this rank wrote `mine`."""

    other: int
    mine: int
    theirs: int


class Journal:
    """Entries of every rank: whole numbers from 0.

    share_text: gives every rank the text of rank 0; a collective, as making a journal is. waits: see above.
    """

    def __init__(self, rank: int, world: int, share_text: Callable[[str], str], waits: bool):
        size = 8 * world * (LENGTH + 1)
        path = share_text(_make_file(size) if rank == 0 else "")
        with open(path, "r+b") as file:
            memory = mmap.mmap(file.fileno(), size)
        share_text("")  # all have opened it
        if rank == 0:
            os.unlink(path)
        cells = memoryview(memory).cast("q")
        rows = [cells[r * (LENGTH + 1) : (r + 1) * (LENGTH + 1)] for r in range(world)]
        self._mine, self._others = rows[rank], [(r, row) for r, row in enumerate(rows) if r != rank]
        self._count, self._settled, self._waits = 0, -1, waits

    def write(self, entry: int) -> Parting | None:
        """Note what comes next; where another rank notes something else, what that is."""
        place, self._count = self._count, self._count + 1
        self._mine[1 + place % LENGTH] = entry
        self._mine[0] = self._count
        found = self.compare()
        pause, deadline = 2e-5, time.monotonic() + PATIENCE_S
        while self._waits and found is None and time.monotonic() < deadline:
            if all(row[0] > place for _, row in self._others):
                break
            time.sleep(pause)
            pause = min(2 * pause, 1e-3)
            found = self.compare()
        return found or (self.compare() if self._waits else None)

    def compare(self) -> Parting | None:
        """Whether another rank has written something else at the last place that both have written to."""
        for other, row in self._others:
            place = min(self._count, row[0]) - 1
            if place <= self._settled or row[0] - place >= LENGTH or self._count - place >= LENGTH:
                continue
            mine, theirs = self._mine[1 + place % LENGTH], row[1 + place % LENGTH]
            if mine != theirs:
                self._settled = place  # told once
                return Parting(other, mine, theirs)
        return None


def _make_file(size: int) -> str:
    folder = SHARED if os.access(SHARED, os.W_OK) and _has_room(size) else None
    with tempfile.NamedTemporaryFile(prefix="zerokit-journal-", dir=folder, delete=False) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # memory that is lacking later would be a SIGBUS
        except OSError:
            os.unlink(file.name)
            raise
    return file.name


def _has_room(size: int) -> bool:
    room = os.statvfs(SHARED)
    return room.f_bavail * room.f_frsize >= 2 * size
