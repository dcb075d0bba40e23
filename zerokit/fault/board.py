"""What the ranks tell each other outside of collectives: a few keys of the store through which they met."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.distributed as dist

from zerokit.config.host import process_space

PATIENCE_S = 0.05
"""Seconds between two looks at the store while answers are awaited."""
CLAIM_S = 2.0
"""Seconds after which a message that was announced counts as lost."""


@dataclass(frozen=True)
class Place:
    """Where a rank runs. space: of its process id (`process_space`). host: its name, for people."""

    space: str
    pid: int
    host: str


class Asked:
    """A store of which other threads know for how long it has owed an answer: no call of a TCPStore has a limit that
    holds when the network is cut, and no signal ends one."""

    def __init__(self, store: dist.Store):
        self._store = store
        self._since: dict[int, float] = {}  # by thread

    def __getattr__(self, call: str) -> Callable[..., Any]:
        return partial(self._ask, call)

    def _ask(self, call: str, *words: Any) -> Any:
        me = threading.get_ident()
        self._since[me] = time.monotonic()
        try:
            return getattr(self._store, call)(*words)
        finally:
            del self._since[me]

    def oldest(self) -> float | None:
        """When the oldest question was asked that is not answered yet; None if there is none."""
        return min(list(self._since.values()), default=None)


class Board:
    """Messages by topic. Of one topic the first message counts for everybody; each rank may answer it once.

    Nothing here blocks: a rank that is gone only leaves its answer out. `store` must be a connection of its own, since
    a client that waits for a key keeps other threads out.
    """

    def __init__(self, store: dist.Store, rank: int, world: int):
        self._store, self.rank, self.world = Asked(dist.PrefixStore("board", store)), rank, world
        self.oldest_question = self._store.oldest
        self._seen = 0
        self._places: dict[int, Place] = {}
        self._store.set(f"place/{rank}", json.dumps([process_space(), os.getpid(), socket.gethostname()]))

    def changed(self) -> bool:
        """Whether a message has come since the last call; one short question to the store."""
        count = self._store.add("messages", 0)
        changed, self._seen = count != self._seen, count
        return changed

    def post(self, topic: str, **message: Any) -> dict[str, Any]:
        """Post a message, and return the one that counts: that of whoever came first."""
        if self._store.add(f"{topic}/claim", 1) == 1:
            self._store.set(topic, json.dumps(message))
            self._store.add("messages", 1)
            return message
        deadline = time.monotonic() + CLAIM_S
        while time.monotonic() < deadline:
            first = self.read(topic)
            if first is not None:
                return first
            time.sleep(PATIENCE_S)
        self._store.set(topic, json.dumps(message))  # whoever came first is gone
        self._store.add("messages", 1)
        return message

    def read(self, topic: str) -> dict[str, Any] | None:
        """The message on a topic, if there is one."""
        return json.loads(self._store.get(topic)) if self._store.check([topic]) else None

    def answer(self, topic: str, value: Any) -> None:
        """Give this rank's answer on a topic, once."""
        self._store.set(f"{topic}/answer/{self.rank}", json.dumps(value))
        self._store.add(f"{topic}/answers", 1)

    def all_answered(self, topic: str) -> bool:
        """Whether every rank has given its answer."""
        return self._store.add(f"{topic}/answers", 0) >= self.world

    def answers(self, topic: str) -> dict[int, Any]:
        """The answers that are there, by rank."""
        keys = {rank: f"{topic}/answer/{rank}" for rank in range(self.world)}
        return {rank: json.loads(self._store.get(key)) for rank, key in keys.items() if self._store.check([key])}

    def gather(self, topic: str, patience_s: float) -> dict[int, Any]:
        """The answers by rank, of all ranks if they come within `patience_s` seconds."""
        deadline = time.monotonic() + patience_s
        while not self.all_answered(topic) and time.monotonic() < deadline:
            time.sleep(PATIENCE_S)
        return self.answers(topic)

    # -- the processes of this host ----------------------------------------------------------------------------------

    def leave(self) -> None:
        """This rank has done all its work, so its process may end."""
        self._store.set(f"left/{self.rank}", "")

    def place(self, rank: int) -> Place | None:
        """Where a rank runs, once it has said so."""
        if rank not in self._places and self._store.check([f"place/{rank}"]):
            self._places[rank] = Place(*json.loads(self._store.get(f"place/{rank}")))
        return self._places.get(rank)

    def all_are_here(self) -> bool:
        """Whether every rank has said where it runs."""
        return all(self.place(rank) is not None for rank in range(self.world))

    def neighbour(self) -> int | None:
        """The next rank on this host, around; every rank has one that looks at it. None if this rank is alone."""
        here = self.place(self.rank).space
        for step in range(1, self.world):
            rank = (self.rank + step) % self.world
            place = self.place(rank)
            if place is None:
                return None  # it has not started yet
            if place.space == here:
                return rank
        return None

    def state(self, rank: int) -> str | None:
        """What Linux says of a rank's process if it runs on this host: `R`, `S`, `T` (stopped), …, or `gone`."""
        place = self.place(rank)
        if place is None or place.space != self.place(self.rank).space or not os.path.isdir("/proc/self"):
            return None
        return process_state(place.pid)

    def is_gone(self, rank: int) -> bool:
        """Whether a rank's process on this host has ended before the rank had done its work."""
        return self.state(rank) == "gone" and not self._store.check([f"left/{rank}"])


def process_state(pid: int) -> str:
    """The letter in /proc/PID/stat; a process that has ended, also one that nobody has waited for, is `gone`."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            letter = file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    return "gone" if letter in "ZX" else letter
