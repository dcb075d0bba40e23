"""Traces of a few steps, written and read on every rank."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerAction, ProfilerActivity, profile, record_function, schedule

from zerokit.callbacks import Callback
from zerokit.config.schema import ProfileConfig
from zerokit.record.trace import STREAM_MARK, analyse, load_events
from zerokit.train.trainer import Trainer

ALLOCATIONS = 1_000_000
"""Events of the allocator that a memory snapshot holds at most; the oldest are dropped first."""

log = logging.getLogger("zerokit")


class Profiler(Callback):
    """Traces `steps` steps of the training after the first `after`, and the allocations made in them.

    rankN.json.gz: the trace, for Perfetto. rankN.figures.json: what `zerokit.record.trace` finds in it, with the rank.
    rankN.memory.pickle: the snapshot of a GPU's memory. All in `folder`. Every rank has one, for the same steps.
    """

    def __init__(self, options: ProfileConfig, trainer: Trainer, folder: Path):
        self._options, self._trainer, self._folder = options, trainer, folder
        self._device = trainer.engine.device
        self._on_gpu = self._device.type == "cuda"
        self._seen = 0
        self._recording_memory = False
        self._profile: profile | None = None

    def on_start(self) -> None:
        """Start the profiler, which is idle until the first step to trace."""
        options, trainer, folder = self._options, self._trainer, self._folder
        with self._warned():
            folder.mkdir(parents=True, exist_ok=True)
        _name_phases(trainer)
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it would write to the terminal
        self._scratch = torch.zeros(1, device=self._device)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
        self._profile = profile(
            activities=activities,
            schedule=schedule(skip_first=options.after - 1, wait=0, warmup=1, active=options.steps, repeat=1),
            record_shapes=options.shapes,
            with_stack=options.stacks,
        )
        self._profile.start()

    def on_step(self, step: int, metrics: dict[str, float] | None) -> None:
        """A step is done: go on to the next one, or write what was traced."""
        if self._profile is None:
            return
        self._seen += 1
        if self._seen == self._options.after + self._options.steps:
            self._finish()
            return
        self._profile.step()
        if self._seen == self._options.after:
            assert self._profile.current_action in (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)
            self._begin()

    def on_end(self, summary: dict[str, Any]) -> None:
        """End the profiler however the training ended; memory recorded until then is kept, for it may say why."""
        if self._profile is not None and self._seen:
            log.warning("profile: the training ended after %d steps, before the trace was complete.", self._seen)
        with self._warned():
            self._save_memory()
        self._profile = None

    def _begin(self) -> None:
        if self._on_gpu and self._options.memory:
            torch.cuda.memory._record_memory_history(max_entries=ALLOCATIONS, stacks="python")
            self._recording_memory = True
        comm = self._trainer.comm
        for stream in (comm.gathers, comm.reductions):
            with record_function(STREAM_MARK), stream:
                self._scratch.zero_()

    def _finish(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self._device)
        with self._warned():
            self._save_memory()
        with self._warned():
            self._write()
        self._profile = None
        self._trainer.comm.gather_row([0.0])  # writing takes unequally long; the next step begins together

    def _write(self) -> None:
        self._profile.stop()
        trace = self._path("json.gz")
        self._profile.export_chrome_trace(str(trace))
        rank = self._trainer.comm.rank
        figures = {"rank": rank, **analyse(load_events(trace), self._options.steps)}
        self._path("figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        log.info("profile: wrote %s", trace)

    @contextmanager
    def _warned(self) -> Iterator[None]:
        """A picture of the training never ends it: what goes wrong is a warning."""
        try:
            yield
        except Exception as error:
            log.warning("profile: %s: %s", type(error).__name__, error, exc_info=True)

    def _save_memory(self) -> None:
        if self._recording_memory:
            self._recording_memory = False
            torch.cuda.memory._dump_snapshot(str(self._path("memory.pickle")))
            torch.cuda.memory._record_memory_history(enabled=None)

    def _path(self, ending: str) -> Path:
        return self._folder / f"rank{self._trainer.comm.rank}.{ending}"


def _name_phases(trainer: Trainer) -> None:
    """Let forward, backward and update have ranges of their own in the trace."""
    trainer.objective.loss = _named("forward", trainer.objective.loss)
    trainer.engine.backward = _named("backward", trainer.engine.backward)
    trainer.engine.step = _named("update", trainer.engine.step)


def _named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return function(*args, **kwargs)

    return call
