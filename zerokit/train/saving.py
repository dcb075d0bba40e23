"""When a training saves its state and where it goes on: the trainer's side of `zerokit.state`."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zerokit.callbacks import Callback
from zerokit.comm.exchange import SAVE_TIMEOUT_S, Exchange
from zerokit.config.errors import ConfigError, suggestion
from zerokit.config.schema import StateConfig
from zerokit.record.metrics import format_bytes
from zerokit.state import folder as folders
from zerokit.state.disk import Disk, make_durable_folder, make_name_durable
from zerokit.state.errors import DamagedState, StateError, StateMismatch
from zerokit.state.folder import step_path
from zerokit.state.piece import Piece, whole
from zerokit.state.rankfile import RankFile
from zerokit.state.read import verify
from zerokit.state.resume import differences, refusal
from zerokit.state.save import save_state
from zerokit.state.snapshot import HostCopy
from zerokit.train.trainer import Trainer

log = logging.getLogger(__name__)

ROOM = 1.02
"""Free space asked for before the first step, in parts of what one state takes."""


class Saver(Callback):
    """Saves the state of a training every so many steps and when told to, and finds the one to go on from.

    Making one is a collective. Every rank calls `on_step` after every step, and `on_end` or `finish` after the last.

    Args:
        trainer: whose state it is. root: the folder of the run's states. options: every, keep, asynchronous, on_error.
        training: what makes the training the one it is, by key (`state.resume.identity`). facts: what else a manifest
        tells about the run. timeout_s: seconds that a rank waits for the others in a save; None waits for ever.
    """

    def __init__(self, trainer: Trainer, root: Path, options: StateConfig, training: dict[str, Any],
                 facts: dict[str, Any], disk: Disk | None = None,
                 timeout_s: float | None = SAVE_TIMEOUT_S):  # fmt: skip
        self.trainer, self.root, self.options = trainer, Path(root), options
        self.training, self.facts, self.disk = training, facts, disk or Disk()
        self.last_step: int | None = None
        """Step of the newest state that is durable."""
        self.stall_s = 0.0
        """Seconds for which saving has kept the host from training."""
        self.write_s = 0.0
        """Seconds that the last state took to become durable."""
        self.best: dict[str, Any] = {}
        """With state.best: `metric`, its best `value` and the `step` after which it was reached."""
        self.callbacks: Mapping[str, Callback] = {}
        """Those whose state is part of the training's, by name."""
        self.on_saved: Callable[[int, Path], None] = lambda step, path: None
        """Called in the main thread when a state is durable: a later step than its own, if it was written beside."""
        self._saved: tuple[int, Path] | None = None
        self._engine = trainer.engine.state
        self._exchange = Exchange(timeout_s)
        self._copy: HostCopy | None = None
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._begun: int | None = None

    # -- before the first step ---------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Find out now whether states can be written, and set memory aside for copies of them. A collective.

        Raises:
            StateError: the folder cannot be written or has no room (with on_error=continue: a warning).
        """
        if not self._saves:
            if self._exchange.rank == 0:
                self._tidy()
            return
        size = sum(self._exchange.gather(self._file().nbytes))
        problem = self._exchange.first(self._probe(size) if self._exchange.rank == 0 else None)
        if problem is not None:
            self._failed(StateError(f"States cannot be saved: {problem}"))
        if self._beside:
            self._copy = HostCopy(self._file(), self.trainer.engine.device)

    @property
    def _beside(self) -> bool:
        """Whether states are written beside the training, from a copy: not of what lies on the host already, where
        there may be no room for a second one."""
        return self.options.asynchronous and not self.trainer.engine.storage.on_host

    def _probe(self, size: int) -> str | None:
        try:
            make_durable_folder(self.disk, self.root)
            make_name_durable(self.disk, self.root)
            self._clean()
            probe = self.root / f"probe{folders.TEMPORARY}{os.getpid()}"
            self.disk.close(self.disk.create(probe))
            self.disk.unlink(probe)
            room = os.statvfs(self.root)
        except OSError as error:
            return f"{self.root}: {error.strerror or error}. Choose another folder with hydra.run.dir=DIR."
        free = room.f_bavail * room.f_frsize
        if free < ROOM * size:
            return (
                f"one takes {size / 2**30:.2f} GiB, and {self.root} has {free / 2**30:.2f} GiB left. Make room, or "
                "choose another folder with hydra.run.dir=DIR."
            )
        self._warn_of_little_room(size, int(free / (ROOM * size)))
        return None

    def _tidy(self) -> None:
        """Remove what is left over where no states will be saved, if that can be."""
        try:
            self._clean()
        except OSError as error:
            log.warning("%s: what a save has left cannot be removed: %s", self.root, error.strerror)

    def _clean(self) -> None:
        for name in folders.remove_leftovers(self.root, self.disk):
            log.info("removed %s, left by a save that was cut short", self.root / name)

    def _warn_of_little_room(self, size: int, fitting: int) -> None:
        """Say that fewer states fit than will be there at once: one more than are kept, while that is written."""
        kept, steps = self.options.keep, self.trainer.options.steps - self.trainer.progress.step
        every = self.options.every or self.trainer.options.eval_steps or steps or 1
        kept += self.options.best is not None
        due = math.ceil(steps / every)
        missing = min(due, kept + 1 - min(kept, len(folders.saved_states(self.root))))
        if fitting < missing:
            log.warning(
                "%s has room for %d more state%s of %s; state.keep=%d needs %d. Make room, or lower state.keep.",
                self.root, fitting, "s" * (fitting > 1), format_bytes(size), self.options.keep, missing,
            )  # fmt: skip

    def _own(self) -> list[Piece]:
        """What the trainer adds to the engine's state on this rank."""
        trainer = self.trainer
        return [whole(f"rank{trainer.comm.rank}/trainer/{key}", value) for key, value in trainer.tensors().items()]

    def _file(self) -> RankFile:
        return RankFile([*self._engine.pieces(), *self._own()])

    def resume(self, paths: list[Path]) -> Path | None:
        """Go on from the first of `paths` that is sound; return it, or None if there is none to go on from. A
        collective; rank 0's paths count.

        A damaged state in the run's own folder is set aside.

        Raises:
            StateMismatch: it is a state of another training. DamagedState: none of the paths is sound.
        """
        paths = [Path(path) for path in self._exchange.first([str(path) for path in paths])]
        damage = None
        for path in paths:
            try:
                self._load(path)
                return path
            except DamagedState as error:
                damage = error
                log.warning("%s %sTrying the state before it.", error, self._set_aside(path))
        if damage is not None:
            raise damage
        return None

    def _set_aside(self, path: Path) -> str:
        """Rename a damaged state if it is the run's own; what was done, in words. A collective."""
        told = ""
        if self._exchange.rank == 0 and path.parent == self.root:
            try:
                told = f"It is renamed to {folders.set_aside(path, self.disk).name}. "
            except OSError as error:
                told = f"It cannot be renamed: {error.strerror}. "
        return self._exchange.first(told)

    def _load(self, path: Path) -> None:
        manifest = verify(path, self._exchange)
        if len(set(self._exchange.gather(manifest.digest))) > 1:
            raise DamagedState(f"{path}: the ranks do not see the same manifest; the folder must be shared by all.")
        if "trainer" in manifest.facts and "training" not in manifest.facts:
            raise DamagedState(f"{path} is of a run and does not say of which training: facts.training is missing.")
        allowed = self.options.allow_changed
        if lines := differences(manifest.facts.get("training", {}), self.training, allowed):
            raise StateMismatch(refusal(path, lines))
        optional = ("optimizer.",) if any(name.split(".")[0] == "optimizer" for name in allowed) else ()
        try:
            self._engine.load(path, extra=self._own(), optional=optional, manifest=manifest)
        except StateMismatch as error:
            lines = differences(manifest.facts.get("training", {}), self.training)
            raise StateMismatch("\n  ".join([str(error), *lines])) from None
        if "trainer" in manifest.facts:
            try:
                self.trainer.load_state(manifest.facts["trainer"])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                problem = f"{type(error).__name__} {error}"
                raise DamagedState(f"{path}: what it says of the training is malformed: {problem}.") from error
        self.best = manifest.facts.get("best", {}) if path.parent == self.root else {}
        for name, values in manifest.facts.get("callbacks", {}).items():
            if name in self.callbacks:
                self.callbacks[name].load_state(values)
        if path.parent == self.root:
            self.last_step = self._begun = self.trainer.progress.step

    # -- while training ----------------------------------------------------------------------------------------------

    def on_step(self, step: int, metrics: dict[str, float] | None = None) -> None:
        """Save if it is time to.

        Raises:
            StateError: an earlier save failed, unless the options say to go on.
        """
        self._look()
        better = metrics is not None and self._is_better(step, metrics)
        if better or self.options.every and step % self.options.every == 0:
            self.save_now(step)

    @property
    def _saves(self) -> bool:
        return self.options.every > 0 or self.options.best is not None

    def _is_better(self, step: int, metrics: dict[str, float]) -> bool:
        """Whether the metric of state.best has never been better; notes it then.

        Raises:
            ConfigError: an evaluation has no such metric.
        """
        name = self.options.best
        if name is None or "eval/loss" not in metrics:
            return False
        if name not in metrics:
            raise ConfigError(
                f"state.best: there is no metric '{name}'.{suggestion(name, metrics)} Metrics: {', '.join(metrics)}."
            )
        value, sign = metrics[name], 1 if self.options.best_mode == "min" else -1
        same = self.best.get("metric") == name
        if not math.isfinite(value) or same and sign * value >= sign * self.best["value"]:
            return False
        self.best = {"metric": name, "value": value, "step": step}
        return True

    def on_end(self, summary: dict[str, Any]) -> None:
        """Save the end of a training that has not failed, and add to the summary where one that was interrupted is."""
        if summary["status"] == "failed":
            return
        step, interrupted = self.trainer.progress.step, summary["status"] == "interrupted"
        if self.best:
            summary["best"] = {**self.best, "state": step_path(self.root, self.best["step"]).name}
        if interrupted and step > 0:
            self.save_now(step, wait=True)
        self.finish(step)
        if interrupted and step_path(self.root, step).is_dir():
            summary["state"] = step_path(self.root, step).name

    def finish(self, step: int) -> None:
        """The training is over: save its end if it saves at all, and wait until it is durable."""
        if self.options.every:
            self.save_now(step)
        self.drain()
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def save_now(self, step: int, wait: bool = False) -> None:
        """Save the state after `step` steps, if that is not done or under way; wait: until it is durable. Every rank
        calls it at the same step.

        Raises:
            StateError: it could not be saved, unless the options say to go on.
        """
        if step != self._begun:
            began = time.perf_counter()
            self._begin(step)
            self.stall_s += time.perf_counter() - began
        if wait:
            self.drain()

    def _begin(self, step: int) -> None:
        self.drain()  # at most one at a time
        self._begun = step
        path = step_path(self.root, step)
        self._engine.refresh()
        facts = {**self._engine.facts(), **self.facts, "step": step, "training": self.training,
                 "trainer": self.trainer.state()}  # fmt: skip
        if self.best:
            facts["best"] = self.best
        if states := {name: state for name, each in self.callbacks.items() if (state := each.state())}:
            facts["callbacks"] = states
        if not self._beside:
            file = self._file()
            self._engine.follow_updates()
            self._write(path, step, file, file.stream, facts)
            self._look()
            return
        if self._copy is None:
            self._copy = HostCopy(self._file(), self.trainer.engine.device)
        copy = self._copy
        copy.take(self.trainer.comm)
        # A daemon: a rank that fails must be able to end while others keep this thread waiting.
        arguments = (path, step, copy.file, copy.stream, facts, copy.wait)
        self._thread = threading.Thread(target=self._write, args=arguments, name="state", daemon=True)
        self._thread.start()

    def _write(self, path: Path, step: int, file: RankFile, stream: Callable, facts: dict[str, Any],
               ready: Callable[[], None] = lambda: None) -> None:  # fmt: skip
        began = time.perf_counter()
        try:
            ready()
            if not self._exchange.first(self.root.parent.is_dir()):  # `save_state` would make it again
                raise StateError(f"{self.root.parent} is gone: somebody has removed or moved the output folder.")
            save_state(path, file, stream, self._exchange, facts, disk=self.disk)
            self._retain(path, step, facts.get("best", {}).get("step"))
            self.last_step, self.write_s = step, time.perf_counter() - began
            self._saved = step, path
            log.info("saved %s in %.2f s", path, self.write_s)
        except Exception as error:  # raised in the main thread; if it is of the exchange, another rank is gone
            self._error = error

    def _retain(self, path: Path, step: int, best: int | None) -> None:
        """Remove older states, once this one has been read back."""
        count = len(folders.saved_states(self.root)) if self._exchange.rank == 0 else 0
        if self._exchange.first(count) <= self.options.keep:
            return
        verify(path, self._exchange)
        if self._exchange.rank == 0:
            try:
                folders.purge(self.root, self.options.keep, step, self.disk, best)
            except OSError as error:
                log.warning("old states in %s could not be removed: %s", self.root, error)

    def drain(self) -> None:
        """Wait for the save under way.

        Raises:
            StateError: it failed, unless the options say to go on.
        """
        if self._thread is not None:
            self._thread.join()
        self._look()

    def _look(self) -> None:
        """Take note of a save that has ended."""
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
        if self._thread is None and self._error is not None:
            error, self._error = self._error, None
            self._failed(error)
        if self._thread is None and self._saved is not None:
            saved, self._saved = self._saved, None
            self.on_saved(*saved)

    def _failed(self, error: Exception) -> None:
        if self.options.on_error == "fail" or not isinstance(error, StateError):
            raise error
        log.warning("%s The training goes on (state.on_error=continue).", error)
