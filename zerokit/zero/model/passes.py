"""Backward passes that engines take part in: who began one, which engines it meets, and when it is over.

A pass begins with `Engine.backward`, and trains that engine alone (what it leaves in others is dropped); or with
`loss.backward()`, which trains every engine that the loss depends on; or with `torch.autograd.grad`, which trains none.
Autograd runs one pass at a time, so there is one at most. A pass may hold others inside it (reentrant checkpoints):
these are parts of it.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Protocol

import torch
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import _engine_run_backward

_RUN, _INNER = _engine_run_backward.__code__, BackwardCFunction.apply.__code__
_current: Pass | None = None


class Member(Protocol):
    """An engine, as a pass sees it."""

    def begin_micro_batch(self) -> None:
        """The pass has gradients for this engine; called again for each unit's."""

    def end_pass(self, trained: bool) -> None:
        """The pass is over. trained: gradients that it left are the engine's, else they are to be dropped."""

    def fail_pass(self, trained: bool) -> None:
        """The pass has failed."""


class Pass:
    """One backward pass. task: autograd's number of it, None until it is known. driver: whose `backward` began it."""

    def __init__(self, driver: Member | None = None, task: int | None = None):
        self.driver, self.task = driver, task
        self.members: list[Member] = []

    def note_task(self, _gradient: torch.Tensor | None = None) -> None:
        """Autograd has begun: its number is that of the pass."""
        self.task = torch._C._current_graph_task_id()

    def trains(self, member: Member) -> bool:
        """Whether gradients of this pass are the engine's."""
        return self.driver is None or self.driver is member

    @property
    def inner(self) -> bool:
        """Whether autograd is in a pass inside this one, whose gradients are not yet complete."""
        return torch._C._current_graph_task_id() != self.task

    def end(self) -> None:
        """Tell every engine that was met."""
        global _current
        for member in self.members:
            member.end_pass(self.trains(member))
        _current = None

    def fail(self) -> None:
        """The pass did not come to its end."""
        global _current
        _current = None
        for member in self.members:
            member.fail_pass(self.trains(member))


def in_backward() -> bool:
    """Whether this thread is inside a backward pass."""
    return torch._C._current_graph_task_id() != -1


def begin(driver: Member) -> Pass:
    """A pass begun by an engine."""
    global _current
    _current = Pass(driver)
    _current.members.append(driver)
    return _current


def meet(member: Member) -> Pass:
    """The pass under way, which has come to an engine.

    Raises:
        RuntimeError: it was begun by `loss.backward()`, and is first seen inside a reentrant checkpoint.
    """
    global _current
    now = _current
    if now is None or (now.driver is None and now.inner and not _is_inside()):
        clear()
        if _is_inside():
            raise RuntimeError(
                "loss.backward() met this model inside a reentrant checkpoint first, where its end cannot be seen: "
                "call engine.backward(loss), or checkpoint with use_reentrant=False."
            )
        now = _current = Pass(task=torch._C._current_graph_task_id())
        torch.autograd.Variable._execution_engine.queue_callback(now.end)
    if member not in now.members:
        now.members.append(member)
    return now


def is_plain() -> bool:
    """Whether the pass under way was begun by `loss.backward()`."""
    return _current is not None and _current.driver is None


def clear() -> None:
    """A pass that failed, of which nobody told, is over: the next one begins, or a forward pass outside of it."""
    if _current is not None and (not in_backward() or (_current.inner and not _is_inside())):
        _current.fail()


def _is_inside() -> bool:
    """Whether this thread runs a pass that a node of another one has begun."""
    frame: FrameType | None = sys._getframe()
    began = False
    while frame is not None:
        began = began or frame.f_code is _RUN
        if began and frame.f_code is _INNER:
            return True
        frame = frame.f_back
    return False
