"""A CUDA stream that does nothing on the CPU, so that one code path serves both."""

from __future__ import annotations

import threading

import torch

UPDATE, COMPUTE, COMMUNICATION = 0, -1, -2
"""Priorities of streams; lower numbers go first. Communication is short and others wait for it. The update of a unit is
needed later than the forward pass of the one before it: it fills the SMs that compute leaves free."""


def compute_first(device: torch.device) -> None:
    """Make the current stream of this thread one that goes before updates (the default stream goes last)."""
    if device.type == "cuda" and torch.cuda.current_stream(device) == torch.cuda.default_stream(device):
        stream = torch.cuda.Stream(device, priority=COMPUTE)
        stream.wait_stream(torch.cuda.default_stream(device))
        torch.cuda.set_stream(stream)


def use_device(device: torch.device) -> None:
    """Let a helper thread work on `device`: a new thread starts on GPU 0, and would take memory for a context there."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


class Stream:
    """An order of device work. On the CPU work is done when it is called, and every method is a no-op.

    Use it as a context manager to issue work on it; `record` marks a point, `wait` makes later work follow a mark.

    current: the stream that the caller computes on, also while work is issued on another.
    """

    _outside = threading.local()

    def __init__(self, device: torch.device, current: bool = False, priority: int = 0):
        self._stream = None
        self._current = current
        if device.type == "cuda" and not current:
            self._stream = torch.cuda.Stream(device, priority=priority)
        self._cuda = device.type == "cuda"
        self._index = device.index  # torch looks for GPUs anew where it is not told which one, which takes longer
        self._before: list = []

    @property
    def _target(self):
        if not self._current:
            return self._stream
        return getattr(self._outside, "stream", None) or torch.cuda.current_stream(self._index)

    def record(self, event: torch.cuda.Event | None = None) -> torch.cuda.Event | None:
        """The point reached by the work issued so far, as `event` or a new one; None on the CPU."""
        return self._target.record_event(event) if self._cuda else None

    def wait(self, event: torch.cuda.Event | None) -> None:
        """Later work on this stream starts after `event`. The host does not wait."""
        if event is not None:
            self._target.wait_event(event)

    def synchronize(self) -> None:
        """Let the host wait for all that was issued."""
        if self._cuda:
            self._target.synchronize()

    def __enter__(self) -> Stream:
        if self._stream is not None:
            here, outside = torch.cuda.current_stream(self._index), getattr(self._outside, "stream", None)
            self._before.append((here, outside))
            self._outside.stream = outside or here
            torch.cuda.set_stream(self._stream)
        return self

    def __exit__(self, *error) -> None:
        if self._stream is not None:
            here, self._outside.stream = self._before.pop()
            torch.cuda.set_stream(here)
