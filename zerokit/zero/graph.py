"""A whole training step as one CUDA graph: forward, backward, collectives and update without the host.

Pays where the host cannot issue kernels as fast as the GPU runs them (small batches). Source: NVIDIA, CUDA Programming
Guide, "CUDA Graphs"; PyTorch, `torch.cuda.graph`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from zerokit.comm.process import close_first
from zerokit.comm.stream import COMPUTE
from zerokit.config.errors import ConfigError

Batch = Any
"""Tensors in tuples, lists and mappings."""
WARMUP = 4
"""Steps run one by one first: they compile, allocate, and record the order of gathers and reductions."""


class CapturedStep:
    """Runs training steps of equal shapes; after `WARMUP` of them, as replays of one recorded step.

    [Note: what a replay assumes] Nothing about the slots: they are invalid when the step is recorded, so it gathers all
    that it uses, and again after each replay, so that an evaluation between steps does the same. Values that change
    from step to step (learning rate, loss scale, step count) are tensors on the device. Events from before the
    recording mean nothing inside it and the other way round, so all are dropped at its start and end, with the side
    streams forked from and joined to the recording stream.

    Args:
        engine: on a GPU. step: micro-batches → loss (0-dim); calls `engine`, `backward` and `step`.
    """

    def __init__(self, engine: Any, step: Callable[[Sequence[Batch]], Tensor]):
        if engine.device.type != "cuda":
            raise ConfigError(
                f"A recorded step (train.cuda_graph=true, engine.record) needs a GPU; this rank computes on "
                f"{engine.device.type}. Set it to false."
            )
        if engine.changes:
            raise ConfigError(
                "train.cuda_graph=true replays one recorded step, and this optimizer's steps change: after its "
                "warm-up, or as the torch optimizer says that the engine follows. Set it to false."
            )
        self._engine, self._step = engine, step
        self._stream = torch.cuda.Stream(engine.device, priority=COMPUTE)
        self._stream.wait_stream(torch.cuda.current_stream())
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Batch] = []
        self._loss: Tensor | None = None
        close_first(self)  # NCCL does not give up a group, and waits for ever, while a recording has its collectives

    def close(self) -> None:
        """Give the recorded step up, without waiting for a replay under way; the next call records another."""
        if self._graph is not None:
            self._graph.reset()
            self._graph = None

    def __call__(self, batches: Sequence[Batch]) -> Tensor:
        """The step's loss (0-dim), overwritten by the next call."""
        current = torch.cuda.current_stream()
        self._engine.comm.join()  # an evaluation may have left gathers under way
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = self._run(batches)
        current.wait_stream(self._stream)
        return loss

    def _run(self, batches: Sequence[Batch]) -> Tensor:
        if self._engine.follow_model():
            self.close()
            self._calls = 0
        self._calls += 1
        if self._calls <= WARMUP:
            return self._step(batches)
        if self._graph is None:
            self._capture(batches)
        for mine, theirs in zip(self._inputs, batches, strict=True):
            torch._foreach_copy_(tree_leaves(mine), tree_leaves(theirs))
        self._graph.replay()
        self._engine.comm.fork()  # gathers of an evaluation follow the update in it
        self._engine.gatherer.invalidate()
        return self._loss

    def _capture(self, batches: Sequence[Batch]) -> None:
        engine = self._engine
        self._inputs = tree_map(torch.clone, list(batches))
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        engine.forget_events()
        engine.gatherer.invalidate()
        graph = torch.cuda.CUDAGraph()
        # Other threads (NCCL's watchdog) may query events meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            engine.comm.fork()
            self._loss = self._step(self._inputs)
            engine.comm.join()
        engine.forget_events()
        self._graph = graph
