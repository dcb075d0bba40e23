"""Who is called while a run trains: zerokit's own callbacks around those that the configuration names.

| in this order | on | what |
|---|---|---|
| `Terminal`, `Tracking`, `Recorder` | rank 0 | lines and panel; the tracker; metrics.jsonl, summary.json, report.html |
| those of `callbacks=[…]` | every rank | as the configuration names them |
| `Results` | every rank | what only a finished run knows, measured at its end |
| `Verification` | every rank | with state.verify_every: whether the ranks hold the same |
| `Final` | every rank | with state.final: the weights at the end, in `model` |
| `Saver` | every rank | saved states |
| `Profiler` | every rank | with profile.steps: traces |

A step's metrics are thus written down before its state is saved, and the state holds what a callback has made of them.
`on_end` goes the other way: traces and states are whole before the results are measured, the configuration's callbacks
can add to the summary before it is written, and the panel comes last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zerokit.callbacks import Callback, Run
from zerokit.config import registry
from zerokit.config.errors import ConfigError

log = logging.getLogger("zerokit")


def named(run: Run) -> dict[str, Callback]:
    """Build the callbacks that the configuration names, by name.

    Raises:
        ConfigError: one is no `zerokit.Callback`.
    """
    built = {choice.name: registry.build("callbacks", choice, run=run) for choice in run.config.callbacks}
    for name, callback in built.items():
        if not isinstance(callback, Callback):
            raise ConfigError(
                f"callbacks.{name}: expected its builder to return a zerokit.Callback, got {type(callback).__name__}."
            )
    return built


class Shown(Callback):
    """A callback that only shows the run, whose status never depends on it: its first error, also that of `make`, is a
    warning, and it is called no more. what: it is, in words."""

    def __init__(self, make: Callable[[], Callback], what: str):
        self._callback: Callback | None = None
        self._what = what
        with self._harmless():
            self._callback = make()

    def on_start(self) -> None:
        """As the callback."""
        self._call("on_start")

    def on_step(self, step: int, metrics: dict[str, float] | None) -> None:
        """As the callback."""
        self._call("on_step", step, metrics)

    def on_end(self, summary: dict[str, Any]) -> None:
        """As the callback."""
        self._call("on_end", summary)

    def _call(self, event: str, *arguments: Any) -> None:
        if self._callback is not None:
            with self._harmless():
                getattr(self._callback, event)(*arguments)

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            self._callback = None
            told = f"{type(error).__name__}: {error}".partition("\n")[0]
            log.warning("%s is off for the rest of this run: %s", self._what, told, exc_info=True)


class Callbacks:
    """Calls callbacks in their order. Each event has a tuple of the methods that do something for it."""

    def __init__(self, callbacks: Iterable[Callback]):
        self._callbacks = tuple(callbacks)
        self._on_step, self._on_evaluate = self._methods("on_step"), self._methods("on_evaluate")
        self._to_end = list(self._methods("on_end"))

    def _methods(self, event: str) -> tuple[Callable[..., None], ...]:
        own = getattr(Callback, event)
        return tuple(getattr(each, event) for each in self._callbacks if getattr(type(each), event) is not own)

    def on_start(self) -> None:
        """The training begins."""
        for method in self._methods("on_start"):
            method()

    def on_step(self, step: int, metrics: dict[str, float] | None) -> None:
        """A step is done, and perhaps an evaluation."""
        if metrics is not None and "eval/loss" in metrics:
            for method in self._on_evaluate:
                method(step, metrics)
        for method in self._on_step:
            method(step, metrics)

    def on_save(self, step: int, path: Path) -> None:
        """A state is on the disk."""
        for method in self._methods("on_save"):
            method(step, path)

    def on_end(self, summary: dict[str, Any]) -> None:
        """The run is over: the last is called first, and each that has returned is called no more."""
        while self._to_end:
            self._to_end[-1](summary)
            self._to_end.pop()

    def on_failure(self, summary: dict[str, Any]) -> None:
        """The same after an error, of which none that follows may take the place."""
        while self._to_end:
            try:
                self._to_end.pop()(summary)
            except Exception:
                log.warning("a callback failed at the end of a failed run", exc_info=True)
